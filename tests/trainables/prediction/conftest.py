"""Tiny models, of one label, of several labels and of pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainables.export.models import fine_tuned
from trainables.export.load import LoadedModel


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of one label per text, with a temperature."""
    made = fine_tuned("bert", tmp_path_factory.mktemp("model"))
    return replace(made, described=made.described.model_copy(update={"temperature": 2.5}))


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of several labels per text."""
    return fine_tuned("bert", tmp_path_factory.mktemp("several"), several=True)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of pairs of texts."""
    return fine_tuned("bert", tmp_path_factory.mktemp("pairs"), pairs=True)
