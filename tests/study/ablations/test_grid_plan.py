"""The plan of an ablation: what sharing saves over the grid, what is there, what a GPU needs; with the data and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.text.numbers import count_text, time_text
from study.ablations import gpu_costs
from study.ablations.ablation_file import Loaded, load, parse
from study.ablations.grid import AblationGrid, grid
from study.ablations.grid_plan import plan
from study.ablations.grid_plan_text import estimate_text, gpu_text, show
from study.cluster.work import Work, here
from study.planning.gpu_table import gpu_named
from tests.helpers import TINY_BERT, tiny_task
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.pretraining import Pretrain
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs, Reader
from trainables.store.store import Store

BASE_UNCASED = "google-bert/bert-base-uncased"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command has it: the hub is not asked, again and again, for what is not here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def tiny(folder: Path, **changes: Any) -> AblationGrid:
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
    cells = [nodes(Inputs(study.recipe_for(point, seed))) for point in study.first_points() for seed in (0, 1)]
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
    done = nodes(Inputs(recipe))
    assert made.cached == {node.stage_id for node in done}
    # The trajectory continues from its fourth step.
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
    assert "Table 1 of Sun et al. 2019" in " ".join(show(found, Store(str(tmp_path)), "h100").split())


def test_settings_that_do_not_go_with_the_data_are_no_plan(tmp_path: Path) -> None:
    """What `study reproduce` would refuse must not look fine in a plan."""
    with pytest.raises(ConfigError, match="train_examples"):
        plan(tiny(tmp_path, recipe=[{"finetune": {"train_examples": 10_000}}], settings=[{"row": "all"}]), Store(str(tmp_path)))


def test_hours_of_a_gpu() -> None:
    bert = gpu_costs.measurable(Encoder(hub="google-bert/bert-base-uncased"))
    blocks = 12 * (4 * 768 * 768 + 2 * 768 * 3072)  # 85 million, of the 110 million that it has with embeddings
    assert gpu_costs.flops_per_piece(bert) == 6 * blocks
    assert gpu_costs.flops_per_piece(bert, 0.15) == 6 * (blocks + 0.15 * 768 * 30522)


def test_hours_of_a_whole_table(tmp_path: Path) -> None:
    found = grid(load("table2"), "paper", tasks=["imdb"], placeholders=True)
    made = plan(found, Store(str(tmp_path)))
    blocks = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    flops = 6 * blocks * made.tokens_shared + 2 * blocks * made.read
    assert made.flops == pytest.approx(flops)
    hours = flops / (989e12 * 0.4) / 3600
    text = " ".join(show(found, Store(str(tmp_path)), "H100").split())
    assert f"about {hours:.2g} GPU-hours of one H100 ({60 * hours:.0f} min)" in text
    assert "40% (assumed) of 989 bfloat16 TFLOP/s" in text


def test_table6_on_imdb_by_hand(tmp_path: Path) -> None:
    """Every number from Table 1 of the paper and the file, with nothing of the program's."""
    made = plan(grid(load("table6"), "paper", tasks=["imdb"], placeholders=True), Store(str(tmp_path)))
    # Fine-tuning: nine tenths of 25,000 texts of 292 pieces, [CLS] and [SEP], 4 epochs; five rows over three seeds.
    cell = 25_000 * 9 / 10 * (292 + 2) * 4
    # Further pre-training: 100,000 steps of 32 sequences of at most 128 - 2 pieces and two special ones. A text of 292 makes 3.
    texts = {  # texts of training, mean pieces, sequences of a text
        "imdb": (22_500, 292, 3),
        "yelp_polarity": (504_000, 177, 2),
        "yelp_full": (585_000, 179, 2),
        "trec": (4_907, 11, 1),
        "yahoo_answers": (1_260_000, 131, 2),
        "ag_news": (108_000, 44, 1),
        "dbpedia": (504_000, 67, 1),
    }

    def run(*names: str) -> float:
        pieces = sum(texts[name][0] * texts[name][1] for name in names)
        return 100_000 * 32 * (pieces / sum(texts[name][0] * texts[name][2] for name in names) + 2)

    within, domain, across = run("imdb"), run("imdb", "yelp_polarity", "yelp_full"), run(*texts)
    assert within == pytest.approx(317_866_667)  # 97 1/3 and two pieces
    assert made.cells == 15
    assert made.tokens_shared == pytest.approx(15 * cell + within + domain + across, rel=1e-4)
    assert made.tokens_unshared == pytest.approx(15 * cell + 3 * (within + domain + across), rel=1e-4)
    # Validation after each of 4 epochs, the test split once.
    read = (2_500 * 4 + 25_000) * 294
    assert made.read == pytest.approx(15 * read)
    # BERT-base has 85 million weights in its blocks. Two FLOPs each forward, four backward; 15 % of the pieces of pre-training are
    # predicted from 768 units among 30,522. BERT-Feat runs its encoder once over each text, for all seeds, and trains a biLSTM of
    # 2 x 4 gates x 300 units x (768 + 300) weights.
    weights, lstm = 84_934_656, 2_563_200
    tuned = 12 * (6 * cell + 2 * read) * weights
    features = 2 * (25_000 + 25_000) * 294 * weights + 3 * (6 * cell + 2 * read) * lstm
    pretrained = 6 * (weights + 0.15 * 768 * 30_522) * (within + domain + across)
    assert made.flops == pytest.approx(tuned + features + pretrained, rel=1e-4)
    assert made.flops_missing == made.flops


def test_layers_that_are_not_used_cost_nothing(tmp_path: Path) -> None:
    table3 = load("table3")
    one = plan(grid(table3, "paper", placeholders=True), Store(str(tmp_path)))
    # Layers 0 to 11, twelve shares; then three rows of four layers, three of the last four, one of all.
    blocks = sum(range(1, 13)) + 3 * 4 + 4 * 12
    cell = (6 * 22_500 * 4 + 2 * (2_500 * 4 + 25_000)) * 294
    assert one.flops == pytest.approx(5 * cell * blocks / 12 * 84_934_656)


def test_figure_2_reads_training_texts_too(tmp_path: Path) -> None:
    made = plan(grid(load("figure2"), "paper", placeholders=True), Store(str(tmp_path)))
    assert made.read == pytest.approx(4 * 3 * (2 * 2_500 * 40 + 25_000) * 294)


# Several in one store -------------------------------------------------------------------------------------------------------------


def test_what_two_ablations_have_in_common_is_there_once(tmp_path: Path) -> None:
    grids = [grid(load(name), "paper", tasks=["imdb"], placeholders=True) for name in ("table2", "table3", "table6")]
    made = plan(grids[0], Store(str(tmp_path)), *grids[1:])
    alone = [plan(each, Store(str(tmp_path))) for each in grids]
    cell = 22_500 * 294 * 4
    assert [share.tokens_shared for share in made.shares] == [each.tokens_shared for each in alone]
    assert [share.tokens_unshared for share in made.shares] == [each.tokens_unshared for each in alone]
    assert made.tokens_unshared == sum(each.tokens_unshared for each in alone)
    # Table 3's Layer-11 over five seeds, and Table 6's BERT-FiT over three of them, are Table 2's head+tail.
    assert [share.tokens_added for share in made.shares] == pytest.approx(
        [alone[0].tokens_shared, alone[1].tokens_shared - 5 * cell, alone[2].tokens_shared - 3 * cell]
    )
    assert made.tokens_shared == pytest.approx(sum(share.tokens_added for share in made.shares))
    both = 8 * (6 * cell + 2 * (2_500 * 4 + 25_000) * 294) * 84_934_656
    assert made.flops == pytest.approx(sum(each.flops for each in alone) - both)
    assert [share.cells for share in made.shares] == [30, 95, 15]


def test_the_order_changes_who_adds_what_and_not_the_whole(tmp_path: Path) -> None:
    one, other = (grid(load(name), "paper", tasks=["imdb"], placeholders=True) for name in ("figure3", "table6"))
    forth, back = plan(one, Store(str(tmp_path)), other), plan(other, Store(str(tmp_path)), one)
    assert forth.tokens_shared == pytest.approx(back.tokens_shared)
    assert forth.flops == pytest.approx(back.flops)
    assert forth.shares[0].tokens_added == back.shares[1].tokens_shared
    assert forth.shares[1].tokens_added < back.shares[0].tokens_added


def test_several_with_their_data_share_by_identity(tmp_path: Path) -> None:
    one, again = tiny(tmp_path), tiny(tmp_path, name="again", seeds=3)
    store = Store(str(tmp_path / "store"))
    made, alone = plan(one, store, again), plan(again, store)
    assert made.tokens_shared == alone.tokens_shared, "its three seeds hold the other's two"
    assert made.sources == ()
    text = show(one, store, None, again)
    assert "between them" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_same_name_for_other_data_is_not_shared(tmp_path: Path) -> None:
    grids = [
        tiny(tmp_path, name=name, tasks={"imdb": {"train": f"{name}.csv", "test": "test.csv"}}, encoder={"hub": BASE_UNCASED})
        for name in ("one", "other", "one")
    ]
    made = plan(grids[0], Store(str(tmp_path)), *grids[1:])
    tokens = made.shares[0].tokens_shared
    assert [share.tokens_added for share in made.shares] == [tokens, tokens, 0]
    assert made.tokens_missing is None


def test_what_is_left_is_said_before_a_run(tmp_path: Path) -> None:
    found, store = tiny(tmp_path, settings=[{"row": "none"}], seeds=1), Store(str(tmp_path / "store"))
    made = plan(found, store)
    said = estimate_text(found, store, Reader())
    assert said.startswith(f"to train on: {count_text(made.tokens_shared)} of {count_text(made.tokens_shared)} tokens")
    assert " here, by a formula" in said
    assert "here" not in estimate_text(found, store, Reader(), here=False)
    study = found.parts[0].study
    for _ in here(Work("t", study.recipe_for(study.first_points()[0], 0), store.url, Execution(device="cpu", threads=1))):
        pass
    assert plan(found, store).flops_missing == 0
    assert estimate_text(found, store, Reader()).startswith("to train on: 0 of ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(36, "0.01 GPU-hours of one L4 (1 min)"), (4000, "1.1 GPU-hours of one L4 (67 min)"), (36_000, "10.0 GPU-hours of one L4"),
     (3600 * 72, "72.0 GPU-hours of one L4 (3 days)"), (3600 * 12_345, "12,345 GPU-hours of one L4 (514 days)")],
)  # fmt: skip
def test_hours_as_text(seconds: float, text: str) -> None:
    assert gpu_text(seconds, "L4") == text


@pytest.mark.parametrize(
    ("value", "text"), [(999.4, "999"), (999.7, "1 k"), (999_700_000, "1 G"), (1.5e6, "1.5 M"), (2.5e15, "2,500 T"), (0, "0")]
)
def test_large_counts(value: float, text: str) -> None:
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(50, "50 s"), (600, "10 min"), (7200, "2.0 h"), (359_000, "99.7 h"), (3600 * 12_345, "12,345 h (514 days)")],
)
def test_long_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_a_gpu_that_is_not_in_the_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'H100'"):
        show(grid(load("table2"), "smoke"), Store(str(tmp_path)), "H10")
    assert gpu_named("rtx 4090").memory_gb == 24


def test_an_encoder_of_unknown_shape_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody/nothing"):
        show(grid(load("table2"), "smoke", encoder=Encoder(hub="nobody/nothing")), Store(str(tmp_path)))


def test_statistics_cost_nothing(tmp_path: Path) -> None:
    both = show(grid(load("table1"), "smoke"), Store(str(tmp_path)), None, tiny(tmp_path))
    assert both.splitlines()[0].endswith("nothing is trained")
    assert "8 cells" in both
    assert "nothing is trained" in show(grid(load("table1"), "smoke"), Store(str(tmp_path)))
