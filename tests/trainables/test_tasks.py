"""The table of known tasks."""

from __future__ import annotations

import pytest

from trainables.config import ConfigError
from trainables.data import load_task
from trainables.tasks import KNOWN, resolve


@pytest.mark.parametrize(("name", "train", "test"), [("sls_imdb", 796, 200), ("sls_yelp", 796, 199), ("sls_amazon", 785, 196)])
def test_shipped_sets_are_whole(name: str, train: int, test: int) -> None:
    data = load_task(name, resolve(name))
    assert len(data.train) + len(data.validation) == train
    assert len(data.test) == test
    assert data.labels == ("negative", "positive")
    assert data.notices == ()  # no empty text, no text in two splits


def test_every_known_task_has_one_source_and_a_domain() -> None:
    assert {"imdb", "ag_news", "yelp_polarity", "yelp_full", "trec", "dbpedia"} <= set(KNOWN)
    for task in KNOWN.values():
        assert task.domain in ("sentiment", "question", "topic")
        assert (task.train is None) != (task.hub is None)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'sls_imbd' is not a known task; did you mean 'sls_imdb'\?"):
        resolve("sls_imbd")
