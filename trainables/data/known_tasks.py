"""Table of the papers' data sets: source, columns, classes and reported metric.

Sun et al. 2019, Table 1; Gururangan et al. 2020, Table 2; Gu et al. 2020, section 4.1; and three small sets in this package. A set
without an exact copy of the paper's version on the hub has no `task`, but instructions to obtain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.settings.errors import ConfigError, near
from trainables.settings.task import Task

TEXTS = Path(__file__).resolve().parents[1] / "texts"
PARQUET = "refs/convert/parquet"
"""Branch with the hub's own conversion of sets whose repository has only a loading script, which is never run."""
PAPERS = {
    "sun2019": "C. Sun et al., How to Fine-Tune BERT for Text Classification?, arXiv:1905.05583",
    "gururangan2020": "S. Gururangan et al., Don't Stop Pretraining, arXiv:2004.10964",
    "gu2020": "Y. Gu et al., Train No Evil: Selective Masking for Task-Guided Pre-Training, arXiv:2004.09733",
    "shipped": "comes with this package; no numbers of the papers",
}
METRICS = {"accuracy": "accuracy", "macro-F1": "macro_f1", "micro-F1": "micro_f1"}
"""What papers report as settings name it; anything else is the error rate."""
NOT_STATED = "not stated"
CSV_FILES = "{train: train.csv, test: test.csv}"
JSONL_FILES = "{train: train.jsonl, validation: dev.jsonl, test: test.jsonl}"


@dataclass(frozen=True)
class Known:
    """One data set of the table."""

    task: Task | None
    """Source and columns; None for a set that must be obtained by hand. Its domain is `domain`."""
    classes: int | None
    """Number of classes; None if the paper does not state it."""
    domain: str
    """Domain of the texts."""
    reported: Mapping[str, str]
    """{paper (a key of PAPERS): the metric in which it reports this set}."""
    licence: str = NOT_STATED
    """Licence according to the set's card or its authors."""
    by_hand: str = ""
    """Instructions: files to fetch and columns to write; empty for sets in this package."""
    entry: str = CSV_FILES
    """The corresponding entry of a study file under the task's name."""

    @property
    def metric(self) -> str:
        """The metric of the first paper, as `Task.metric` names it."""
        return METRICS.get(next(iter(self.reported.values())), "error_rate")

    @property
    def metrics(self) -> str:
        """All metrics without repetition: `error rate, macro-F1`."""
        return ", ".join(dict.fromkeys(self.reported.values()))


def _shipped(name: str) -> Known:
    folder = TEXTS / name
    # A tenth, the default, would be 80 sentences: too few to choose by.
    task = Task(train=str(folder / "train.csv"), test=str(folder / "test.csv"), validation_share=0.2)
    return Known(task, 2, "sentiment", {"shipped": "error rate"}, "free to use, citation asked for")


def _zhang(archive: str, header: str) -> str:
    """By hand: a set of Zhang et al. 2015 in its original form, csv files without a header."""
    return (
        f"fetch https://s3.amazonaws.com/fast-ai-nlp/{archive}.tgz and put the line `{header}` above its train.csv and its test.csv"
    )


def _released(folder: str) -> str:
    """By hand: a set in the splits that Gururangan et al. 2020 released."""
    place = f"https://allennlp.s3-us-west-2.amazonaws.com/dont_stop_pretraining/data/{folder}/"
    return f"fetch train.jsonl, dev.jsonl and test.jsonl from {place} (columns text and label)"


GU_DATA = "https://cloud.tsinghua.edu.cn/d/214217e068c543cd8116/"
"""Location of the data of Gu et al. 2020, according to thunlp/SelectiveMasking."""
SUN = {"sun2019": "error rate"}
MACRO, MICRO = {"gururangan2020": "macro-F1"}, {"gururangan2020": "micro-F1"}
GU = {"gu2020": "accuracy"}


def _semeval(what: str) -> Known:
    how = (
        f"take the {what} part of the data at {GU_DATA}, or the XML of SemEval-2014 task 4, one row per aspect term, as csv with"
        " the columns text (the sentence), aspect (the term) and label (its polarity)"
    )
    entry = "{train: train.csv, test: test.csv, text: [text, aspect]}"
    return Known(None, None, "sentiment", GU, by_hand=how, entry=entry)


def _corpus(what: str) -> Known:
    how = (
        f"take the {what} reviews at {GU_DATA} as csv with the columns text (one review a row) and label (anything with two values,"
        " such as its stars: the corpus is read without labels)"
    )
    return Known(None, None, "sentiment", {"gu2020": "corpus only"}, by_hand=how, entry="{train: train.csv}")


TABLE: dict[str, Known] = {
    # Sentences of reviews, with the package: see texts/README.md.
    "sls_imdb": _shipped("sls_imdb"),
    "sls_yelp": _shipped("sls_yelp"),
    "sls_amazon": _shipped("sls_amazon"),
    # Sun et al. 2019. None has a validation split, so one is carved from train.
    "imdb": Known(
        Task(hub="stanfordnlp/imdb"),
        2,
        "sentiment",
        SUN | MACRO,
        by_hand=(
            "fetch https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz and write a csv from each of train/ and test/,"
            " a row per file in pos/ and neg/, with the columns text and label (pos or neg)"
        ),
    ),
    "yelp_polarity": Known(
        Task(hub="fancyzhx/yelp_polarity"), 2, "sentiment", SUN, by_hand=_zhang("yelp_review_polarity_csv", "label,text")
    ),
    "yelp_full": Known(
        Task(hub="Yelp/yelp_review_full"),
        5,
        "sentiment",
        SUN,
        "Yelp's terms (yelp-licence)",
        _zhang("yelp_review_full_csv", "label,text"),
    ),
    "trec": Known(
        Task(hub="CogComp/trec", revision=PARQUET, label="coarse_label"),
        6,
        "question",
        SUN,
        by_hand=(
            "fetch train_5500.label and TREC_10.label from https://cogcomp.seas.upenn.edu/Data/QA/QC/ (Latin-1; a line is"
            " `COARSE:fine question`) and write csv files in UTF-8 with the columns text and label (what stands before the colon)"
        ),
    ),
    # A pair of texts, as the paper feeds it: the question and its best answer, which may be empty.
    "yahoo_answers": Known(
        Task(
            hub="community-datasets/yahoo_answers_topics",
            text=("question_title", "question_content"),
            text_pair="best_answer",
            label="topic",
        ),
        10,
        "question",
        SUN,
        by_hand=_zhang("yahoo_answers_csv", "topic,question_title,question_content,best_answer"),
        entry=(
            "{train: train.csv, test: test.csv, text: [question_title, question_content], text_pair: best_answer, label: topic}"
        ),
    ),
    # Gururangan et al. hold 5,000 of its training texts out for validation; here the carved tenth does that.
    "ag_news": Known(
        Task(hub="fancyzhx/ag_news"),
        4,
        "topic",
        SUN | MACRO,
        "for non-commercial use",
        _zhang("ag_news_csv", "label,title,description"),
        entry="{train: train.csv, test: test.csv, text: [title, description]}",
    ),
    "dbpedia": Known(
        Task(hub="fancyzhx/dbpedia_14", text=("title", "content")),
        14,
        "topic",
        SUN,
        "CC BY-SA 3.0",
        _zhang("dbpedia_csv", "label,title,content"),
        "{train: train.csv, test: test.csv, text: [title, content]}",
    ),
    "sogou": Known(
        None,
        6,
        "topic",
        SUN,
        by_hand=(
            "the paper built its own set from the news corpora SogouCA and SogouCS, in Chinese characters, 9,000 training and 1,000"
            " test texts for each of 6 classes: build one like it, as csv with the columns text and label (the set of that name on"
            " the hub is another one: pinyin, 5 classes)"
        ),
    ),
    # Gururangan et al. 2020, besides imdb and ag_news above. The copies on the hub are other versions, other splits or scripts.
    "chemprot": Known(None, 13, "biomedicine", MICRO, by_hand=_released("chemprot"), entry=JSONL_FILES),
    "rct": Known(None, 5, "biomedicine", MICRO, by_hand=_released("rct-20k"), entry=JSONL_FILES),
    "citation_intent": Known(None, 6, "computer science", MACRO, by_hand=_released("citation_intent"), entry=JSONL_FILES),
    "sciie": Known(None, 7, "computer science", MACRO, by_hand=_released("sciie"), entry=JSONL_FILES),
    "hyperpartisan": Known(None, 2, "news", MACRO, "CC BY 4.0", _released("hyperpartisan_news"), JSONL_FILES),
    "helpfulness": Known(None, 2, "reviews", MACRO, by_hand=_released("amazon"), entry=JSONL_FILES),
    # Gu et al. 2020: three tasks, and two corpora of their domain. The splits of mr are the hub's, perhaps not the paper's.
    "mr": Known(
        Task(hub="cornell-movie-review-data/rotten_tomatoes", validation_split="validation"),
        2,
        "sentiment",
        GU,
        by_hand=(
            "fetch rt-polaritydata.tar.gz from http://www.cs.cornell.edu/people/pabo/movie-review-data/ (a sentence a line, in one"
            " file per class; Latin-1), split it, and write csv files in UTF-8 with the columns text and label (pos or neg)"
        ),
    ),
    "sem14_rest": _semeval("restaurant"),
    "sem14_lap": _semeval("laptop"),
    "yelp_corpus": _corpus("Yelp"),
    "amazon_corpus": _corpus("Amazon"),
}

KNOWN: dict[str, Task] = {
    name: known.task.model_copy(update={"domain": known.domain, "metric": known.metric})
    for name, known in TABLE.items()
    if known.task is not None
}
"""The sets that are available without manual work."""


def resolve(name: str) -> Task:
    """The known task with this name. Raises ConfigError with the near miss, or with instructions to obtain the set by hand."""
    if name in KNOWN:
        return KNOWN[name]
    if name in TABLE:
        raise ConfigError([f"{name}: {instructions(name)}"])
    raise ConfigError([f"{name!r} is not a known task{near(name, TABLE)}"])


def instructions(name: str) -> str:
    """Instructions to obtain a known set by hand, in one line; empty for sets in this package."""
    known = TABLE[name]
    if not known.by_hand:
        return ""
    lead = "" if known.task is not None else "the hub has no copy that is known to be the paper's own; "
    entry = known.entry if known.metric == "error_rate" else f"{known.entry[:-1]}, metric: {known.metric}}}"
    return f"{lead}{known.by_hand}; then in the study file `tasks: {{{name}: {entry}}}`"


def without_hub(hub: str | None) -> str:
    """Instructions to obtain the known set with this hub name by hand; empty for a set that is not in the table."""
    return next((instructions(name) for name, task in KNOWN.items() if task.hub is not None and task.hub == hub), "")
