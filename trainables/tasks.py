"""The known tasks as data: three small sets that come with the package, and the hub sets of Sun et al. 2019, Table 1."""

from __future__ import annotations

from pathlib import Path

from trainables.config import ConfigError, Task, near

TEXTS = Path(__file__).resolve().parent / "texts"
PARQUET = "refs/convert/parquet"
"""Branch where the hub keeps its own conversion of sets whose repository holds only a loading script, which is never run."""


def _shipped(name: str) -> Task:
    folder = TEXTS / name
    # A tenth, the default, would be 80 sentences: too few to choose by.
    return Task(train=str(folder / "train.csv"), test=str(folder / "test.csv"), domain="sentiment", validation_share=0.2)


KNOWN: dict[str, Task] = {
    # Sentences of reviews, with the package: see texts/README.md.
    "sls_imdb": _shipped("sls_imdb"),
    "sls_yelp": _shipped("sls_yelp"),
    "sls_amazon": _shipped("sls_amazon"),
    # The paper's sets (its Table 1). None has a validation split, so one is carved from train.
    "imdb": Task(hub="stanfordnlp/imdb", domain="sentiment"),
    "yelp_polarity": Task(hub="fancyzhx/yelp_polarity", domain="sentiment"),
    "yelp_full": Task(hub="Yelp/yelp_review_full", domain="sentiment"),
    "trec": Task(hub="CogComp/trec", revision=PARQUET, label="coarse_label", domain="question"),
    # The paper feeds Yahoo as a sentence pair, question and answer; here the three columns are one text.
    "yahoo_answers": Task(
        hub="community-datasets/yahoo_answers_topics",
        text=("question_title", "question_content", "best_answer"),
        label="topic",
        domain="question",
    ),
    "ag_news": Task(hub="fancyzhx/ag_news", domain="topic"),
    "dbpedia": Task(hub="fancyzhx/dbpedia_14", text=("title", "content"), domain="topic"),
}


def resolve(name: str) -> Task:
    """The known task of that name. Raises ConfigError that names the near miss."""
    if name not in KNOWN:
        raise ConfigError([f"{name!r} is not a known task{near(name, KNOWN)}"])
    return KNOWN[name]
