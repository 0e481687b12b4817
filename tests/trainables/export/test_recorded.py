"""What a recipe recorded about its test split comes out of the exported folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers import pair_recipe, tiny_recipe
from trainables.export.description import Description
from trainables.export.load import load, of_weights
from trainables.export.write import write
from trainables.settings.stages import Finetune
from trainables.stages import jobs
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.artifact_files import PREDICTIONS, WEIGHTS
from trainables.store.store import Store

CASES: list[tuple[Any, dict[str, Any]]] = [
    (tiny_recipe, {"lora_rank": 2, "truncation": "hier-mean", "pooling": "mean"}),
    (pair_recipe, {"truncation": "tail", "head": "mlp", "layers": (0,), "pooling": "cls"}),
]


@pytest.mark.parametrize(("recipe_of", "finetune"), CASES, ids=["adapters and fractions", "pairs and two layers"])
def test_the_folder_gives_the_recorded_predictions(recipe_of: Any, finetune: dict[str, Any], tmp_path: Path) -> None:
    if "lora_rank" in finetune:
        pytest.importorskip("peft")
    recipe, store = recipe_of(tmp_path, epochs=1, **finetune), Store(tmp_path / "store")
    for _ in runner.run(recipe, store):
        pass
    row = runner.evaluate_test(recipe, store)
    inputs = Inputs(recipe)
    stage, base, data = recipe.stages[-1], jobs.base_of(inputs), inputs.target
    assert isinstance(stage, Finetune)
    tested, trained = store.get(row["stage_id"]), store.get(nodes(inputs)[-1].stage_id)
    assert tested is not None
    assert trained is not None
    described = Description(
        labels=data.labels,
        multi_label=False,
        pairs=data.test.pairs is not None,
        finetune=stage,
        encoder_layers=base.layers,
        precision="float32",
        plain=False,
        files={},
    )
    write(of_weights(described, base, trained.path(WEIGHTS), "cpu"), tmp_path / "out", lambda described: "card")
    found = load(tmp_path / "out", "cpu").predict(data.test.pairs or data.test.texts)
    recorded = pq.read_table(tested.path(PREDICTIONS)).to_pydict()
    assert np.abs(found.probabilities - np.array(recorded["probabilities"])).max() < 1e-5
    assert found.labels == [data.labels[place] for place in recorded["prediction"]]
