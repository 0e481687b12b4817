"""The table of known tasks."""

from __future__ import annotations

import pytest

from trainables.data.known_tasks import KNOWN, PAPERS, TABLE, instructions, resolve, without_hub
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
from trainables.settings.plain_yaml import parse_yaml
from trainables.settings.task import Task
from trainables.settings.validate import validate

SUN = {"imdb", "yelp_polarity", "yelp_full", "trec", "yahoo_answers", "ag_news", "dbpedia", "sogou"}
GURURANGAN = {"chemprot", "rct", "citation_intent", "sciie", "hyperpartisan", "ag_news", "helpfulness", "imdb"}
GU = {"mr", "sem14_rest", "sem14_lap", "yelp_corpus", "amazon_corpus"}


@pytest.mark.parametrize(("name", "train", "test"), [("sls_imdb", 796, 200), ("sls_yelp", 796, 199), ("sls_amazon", 785, 196)])
def test_shipped_sets_are_whole(name: str, train: int, test: int) -> None:
    data = load_task(name, resolve(name))
    assert len(data.train) + len(data.validation) == train
    assert len(data.test) == test
    assert data.labels == ("negative", "positive")
    assert len(data.labels) == TABLE[name].classes
    assert data.notices == ()  # no empty text, no text in two splits


def test_every_set_of_the_papers_is_there_and_says_in_which_metric_it_is_reported() -> None:
    for paper, names in (("sun2019", SUN), ("gururangan2020", GURURANGAN), ("gu2020", GU)):
        assert {name for name, known in TABLE.items() if paper in known.reported} == names
    assert {paper for known in TABLE.values() for paper in known.reported} == set(PAPERS)
    assert all(TABLE[name].reported["sun2019"] == "error rate" for name in SUN)
    micro = {name for name in GURURANGAN if TABLE[name].reported["gururangan2020"] == "micro-F1"}
    assert micro == {"chemprot", "rct"}  # the others macro: Table 5 of the paper
    assert TABLE["imdb"].metrics == "error rate, macro-F1"


def test_known_tasks_have_one_source_and_their_domain() -> None:
    assert set(KNOWN) == {name for name, known in TABLE.items() if known.task is not None}
    for name, task in KNOWN.items():
        assert task.domain == TABLE[name].domain
        assert (task.train is None) != (task.hub is None)


def test_every_set_that_is_not_shipped_says_how_to_bring_it_and_what_it_says_is_a_task() -> None:
    for name, known in TABLE.items():
        if known.task is not None and known.task.hub is None:
            assert instructions(name) == ""
            continue
        said = instructions(name)
        assert "\n" not in said
        entry = said.split("`")[-2].removeprefix("tasks: ")
        assert isinstance(validate(Task, parse_yaml(entry)[name]), Task)
        if known.task is not None:
            assert without_hub(known.task.hub) == said
    assert without_hub("somebody/some-set") == without_hub(None) == ""


def test_a_set_that_must_be_brought_says_how() -> None:
    with pytest.raises(ConfigError) as error:
        resolve("chemprot")
    (fault,) = error.value.faults
    assert fault.startswith("chemprot: the hub has no copy")
    for part in ("dont_stop_pretraining/data/chemprot/", "train.jsonl", "columns text and label", "`tasks: {chemprot: {train:"):
        assert part in fault


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'sls_imbd' is not a known task; did you mean 'sls_imdb'\?"):
        resolve("sls_imbd")
    with pytest.raises(ConfigError, match=r"'chemport' is not a known task; did you mean 'chemprot'\?"):
        resolve("chemport")
