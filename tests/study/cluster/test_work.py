"""What workers are given to do."""

from __future__ import annotations

from pathlib import Path

from study.cluster.work import bag_of_words
from tests.helpers import tiny_recipe
from trainables.stages.inputs import Inputs


def test_the_bag_of_words_has_as_many_labelled_texts_as_fine_tuning(tmp_path: Path) -> None:
    data = Inputs(tiny_recipe(tmp_path)).target
    every = len(data.train) + len(data.validation)
    assert bag_of_words(tiny_recipe(tmp_path))["train_examples"] == every
    few = tiny_recipe(tmp_path, train_examples=10)
    assert bag_of_words(few)["train_examples"] == 10
    assert bag_of_words(few, searched=True)["train_examples"] == every
