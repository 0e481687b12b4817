"""Processes that are the ranks of a group, for all tests of this wing: they take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainables.ranks import Ranks


@pytest.fixture(scope="package")
def kept_ranks() -> Iterator[Ranks]:
    """Processes that all cases use one after the other."""
    kept = Ranks()
    yield kept
    kept.end()


@pytest.fixture
def ranks(kept_ranks: Ranks) -> Iterator[Ranks]:
    """The same, and new ones after a test that failed in them."""
    yield kept_ranks
    kept_ranks.settle()
