"""The plan of an ablation: what sharing saves over the grid, what is there, what a GPU needs; with the data and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study import costs
from study.ablations import Loaded, load, parse
from study.grid import Grid, grid
from study.grid_plan import plan, show
from study.work import Work, here
from tests.helpers import TINY_BERT, tiny_task
from trainables.config import Encoder, Execution
from trainables.faults import ConfigError
from trainables.identity import nodes
from trainables.stages import Finetune, Pretrain
from trainables.store import Store


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command has it: the hub is not asked, again and again, for what is not here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def tiny(folder: Path, **changes: Any) -> Grid:
    """Two rows without further pre-training, two milestones of one trajectory, over two seeds."""
    data: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "tasks": {"reviews": {k: v for k, v in tiny_task(folder).canonical().items() if v is not None}},
        "encoder": {"config": TINY_BERT, "vocabulary": 400},
        "recipe": [
            {"pretrain": {"steps": 0, "schedule_steps": 8, "batch_size": 8, "max_length": 24}},
            {"finetune": {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6}},
        ],
        "settings": [
            {"row": "none"},
            {"row": "head", "set": {"finetune.truncation": "head"}},
            {"row": "four", "set": {"pretrain.steps": 4}},
            {"row": "eight", "set": {"pretrain.steps": 8}},
        ],
        "seeds": 2,
        "precision": "float32",
    }
    return grid(Loaded(parse(data | changes), folder), "paper")


def test_tokens_with_and_without_sharing(tmp_path: Path) -> None:
    found = tiny(tmp_path)
    made = plan(found, Store(str(tmp_path / "store")))
    study = found.parts[0].study
    cells = [nodes(study.recipe_for(point, seed)) for point in study.first_points() for seed in (0, 1)]
    assert made.cells == 8
    assert made.tokens_unshared == sum(node.tokens_estimate for each in cells for node in each)
    tuned = sum(each[-1].tokens_estimate for each in cells)
    longest = max(each[0].tokens_estimate for each in cells if len(each) == 2)
    assert made.tokens_shared == tuned + longest
    assert made.tokens_missing == made.tokens_shared
    assert made.sources == ()


def test_what_is_in_the_store_is_not_missing(tmp_path: Path) -> None:
    found = tiny(tmp_path)
    store = Store(str(tmp_path / "store"))
    study = found.parts[0].study
    recipe = study.recipe_for(study.first_points()[2], 0)
    for _ in here(Work("t", recipe, store.url, Execution(device="cpu", threads=1))):
        pass
    made = plan(found, store)
    done = nodes(recipe)
    assert made.cached == {node.stage_id for node in done}
    # The trajectory goes on from its fourth step.
    assert made.tokens_missing == made.tokens_shared - sum(node.tokens_estimate for node in done)
    text = show(found, store)
    assert "1 cached" in text
    assert "2 stages are in the store" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("name", "trajectories"), [("figure3", 1), ("table2", 0), ("table6", 8 + 3 + 1), ("table5", 11)])
def test_the_papers_grids_share_their_stages(name: str, trajectories: int, tmp_path: Path) -> None:
    made = plan(grid(load(name), "paper", placeholders=True), Store(str(tmp_path)))
    runs = {step.run for step in made.steps if isinstance(step.stage, Pretrain)}
    assert len(runs) == trajectories
    assert made.tokens_shared <= made.tokens_unshared
    assert (made.tokens_shared < made.tokens_unshared) == (trajectories > 0)


def test_without_the_data_sizes_are_published_and_named(tmp_path: Path) -> None:
    found = grid(load("table2"), "paper", tasks=["imdb"], placeholders=True)
    made = plan(found, Store(str(tmp_path)))
    assert made.tokens_missing is None
    assert made.sources == ("sizes and mean lengths of Table 1 of Sun et al. 2019",)
    # 22,500 texts of 292 pieces and two special ones, four epochs, six settings, five seeds; none is over 510 on average.
    assert made.tokens_shared == pytest.approx(22_500 * 294 * 4 * 6 * 5)
    assert made.read == pytest.approx((2_500 * 4 + 25_000) * 294 * 30)
    assert "Table 1 of Sun et al. 2019" in show(found, Store(str(tmp_path)), "h100")


def test_hours_of_a_gpu() -> None:
    bert = costs.measurable(Encoder(hub="google-bert/bert-base-uncased"))
    blocks = 12 * (4 * 768 * 768 + 2 * 768 * 3072)  # 85 million, of the 110 million that it has with embeddings
    assert costs.flops_per_piece(bert) == 6 * blocks
    assert costs.flops_per_piece(bert, 0.15) == 6 * (blocks + 0.15 * 768 * 30522)


def test_hours_of_a_whole_table(tmp_path: Path) -> None:
    found = grid(load("table2"), "paper", tasks=["imdb"], placeholders=True)
    made = plan(found, Store(str(tmp_path)))
    blocks = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    flops = 6 * blocks * made.tokens_shared + 2 * blocks * made.read
    assert made.flops == pytest.approx(flops)
    hours = flops / (989e12 * 0.4) / 3600
    text = " ".join(show(found, Store(str(tmp_path)), "H100").split())
    assert (f"about {hours:.1f} h of one H100" if hours > 1.5 else f"about {60 * hours:.0f} min of one H100") in text
    assert "40% (assumed) of 989 bf16 TFLOP/s" in text


def test_memory_and_how_a_batch_is_split() -> None:
    bert = costs.measurable(Encoder(hub="google-bert/bert-base-uncased"))
    stage = Finetune()
    weights = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * (30522 + 512)
    assert costs.memory_bytes(bert, stage, 24) == pytest.approx(16 * weights + 34 * 12 * 768 * 24 * 512)
    assert costs.micro_batch(bert, stage, 80e9) == 24
    need = [costs.memory_bytes(bert, stage, count) for count in (12, 6)]
    assert costs.micro_batch(bert, stage, (need[0] + need[1]) / 2) == 6
    assert costs.micro_batch(bert, stage, 1e9) == 0


def test_a_gpu_that_is_not_in_the_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'H100'"):
        show(grid(load("table2"), "smoke"), Store(str(tmp_path)), "H10")
    assert costs.gpu_named("rtx 4090").memory_gb == 24


def test_an_encoder_of_unknown_shape_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody/nothing"):
        show(grid(load("table2"), "smoke", encoder=Encoder(hub="nobody/nothing")), Store(str(tmp_path)))


def test_statistics_cost_nothing(tmp_path: Path) -> None:
    assert "nothing is trained" in show(grid(load("table1"), "smoke"), Store(str(tmp_path)))
