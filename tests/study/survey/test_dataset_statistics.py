"""Statistics of a data set, against numbers counted by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from study.survey.dataset_statistics import QUICKSTART, Ruler, measure, ruler, statistics
from tests.helpers import reviews, tiny_encoder, write_csv
from trainables.batches.special_tokens import special_tokens
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.data.known_tasks import KNOWN
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task

WORDS = Ruler("none", "words")
TRAIN = [
    ("one", "a"),
    ("one two", "a"),
    ("One  two", "a"),  # repeats the text above, but for case and white space
    ("one two", "a"),  # repeats it exactly
    ("one two three", "b"),
    (" ", "b"),
    ("one two three four five six", "c"),
]
TEST = [("one", "a"), ("ONE two", "b"), ("seven", "b"), ("seven", "b")]


@pytest.fixture
def small(tmp_path: Path) -> Task:
    return Task(train=write_csv(tmp_path / "train.csv", TRAIN), test=write_csv(tmp_path / "test.csv", TEST))


def test_against_a_count_by_hand(small: Task) -> None:
    found = statistics("small", small, WORDS, limit=2)
    train, test = found.splits["train"], found.splits["test"]
    assert found.classes == 3
    assert (train.examples, train.empty, train.unlabelled) == (7, 1, 0)
    # Lengths in order: 0 1 2 2 2 3 6.
    assert train.mean == pytest.approx(16 / 7)
    assert (train.median, train.p90, train.p99, train.maximum) == (2, 6, 6, 6)
    assert train.over_limit_percent == pytest.approx(100 * 2 / 7)
    assert (train.repeats_exact, train.repeats_normalised) == (1, 2)
    assert (train.shared_exact, train.shared_normalised) == (0, 0)
    assert list(train.labels.items()) == [("a", 4), ("b", 2), ("c", 1)]
    assert (test.repeats_exact, test.repeats_normalised) == (1, 1)
    assert (test.shared_exact, test.shared_normalised) == (1, 2)


def test_percentiles_are_lengths_that_occur(tmp_path: Path) -> None:
    rows = [("word " * length, "ab"[length % 2]) for length in range(1, 101)]
    split = statistics("hundred", Task(train=write_csv(tmp_path / "a.csv", rows)), WORDS).splits["train"]
    assert (split.p90, split.p99, split.maximum, split.median) == (90, 99, 100, 50.5)


def test_nothing_is_carved_and_validation_comes_before_test(tmp_path: Path) -> None:
    files = {
        "train": write_csv(tmp_path / "train.csv", TRAIN),
        "validation": write_csv(tmp_path / "validation.csv", [("seven", "a")]),
        "test": write_csv(tmp_path / "test.csv", TEST),
    }
    assert list(statistics("one", Task(train=files["train"]), WORDS).splits) == ["train"]
    found = statistics("three", Task(**files), WORDS)
    assert list(found.splits) == ["train", "validation", "test"]
    assert found.splits["test"].shared_exact == 3  # `one` from train, both `seven` from validation


def test_labels_that_are_missing_are_counted(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("one", "a"), ("two", ""), ("three", "b")])
    split = statistics("some", Task(train=path), WORDS).splits["train"]
    assert (split.unlabelled, dict(split.labels)) == (1, {"a": 1, "b": 1})


def test_pieces_are_those_of_the_tokenizer_and_special_tokens_count_against_the_limit() -> None:
    texts = [text for text, _ in reviews(limit=40)]
    tokenizer = train_wordpiece(texts, 300)
    with_pieces = Ruler("tiny", "pieces", tokenizer, special_tokens(tokenizer).count)
    expected = [len(tokenizer(text)["input_ids"]) - 2 for text in texts]
    assert list(measure(texts, with_pieces)) == expected
    longest = max(expected)
    shipped = statistics("sls_imdb", KNOWN["sls_imdb"], with_pieces, limit=longest + 2).splits["train"]
    assert shipped.over_limit_percent == 100 * sum(len(tokenizer(text)["input_ids"]) > longest + 2 for text, _ in reviews()) / len(
        reviews()
    )


def test_pairs_are_measured_together_and_their_copies_found_in_the_join(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,label\none two,three,x\none,two three,y\none,,x\n,,y\n", encoding="utf-8")
    task = Task(train=str(tmp_path / "a.csv"), text="a", text_pair="b")
    found = statistics("pairs", task, Ruler("none", "words", special_tokens=2, pair_tokens=4), limit=6)
    train = found.splits["train"]
    assert (found.pairs, found.special_tokens, train.examples, train.empty) == (True, 4, 4, 1)
    assert (train.mean, train.mean_of_sides, train.maximum) == (7 / 4, (1.0, 0.75), 3)
    assert train.over_limit_percent == 50
    assert train.repeats_exact == 1
    single = statistics("single", task.model_copy(update={"text": ("a", "b"), "text_pair": None}), found.ruler, limit=6)
    assert (single.pairs, single.special_tokens, single.splits["train"].mean_of_sides) == (False, 2, None)
    assert single.splits["train"].over_limit_percent == 0


def test_a_shipped_set() -> None:
    found = statistics("sls_amazon", KNOWN["sls_amazon"], WORDS)
    train = found.splits["train"]
    assert (found.classes, train.examples, found.splits["test"].examples) == (2, 785, 196)
    lengths = sorted(len(text.split()) for text, _ in reviews("sls_amazon"))
    assert train.mean == pytest.approx(sum(lengths) / 785)
    assert train.maximum == lengths[-1]
    assert train.p90 == lengths[707 - 1]  # 706.5 of 785 texts are 90 %
    assert train.repeats_exact == train.repeats_normalised == 0
    assert found.splits["test"].shared_normalised == 0


def test_an_encoder_without_a_vocabulary_and_none_at_all_count_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ruler(tiny_encoder()).unit == "words"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = ruler()
    assert (found.unit, found.special_tokens) == ("words", 0)
    assert "not installed" in found.name


def test_the_quickstarts_encoder_measures_where_it_is_installed() -> None:
    pytest.importorskip(str(QUICKSTART.package))
    found = ruler()
    assert (found.name, found.unit, found.special_tokens) == (QUICKSTART.package, "pieces", 2)
    assert list(measure(["a film", ""], found)) == [2, 0]


def test_faults_of_files_and_encoders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        statistics("mine", Task(train=write_csv(tmp_path / "a.csv", TRAIN), test="missing.csv", text="txt"), WORDS)
    assert error.value.faults == (
        "mine.train: there is no column 'txt'; did you mean 'text'?",
        "mine.test: missing.csv: there is no such file",
    )
    with pytest.raises(ConfigError, match="no folder"):
        ruler(Encoder(folder=str(tmp_path / "nowhere")))


def test_module_is_light() -> None:
    import subprocess

    code = "import sys, study.survey.dataset_statistics; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_words_without_spaces_are_counted_by_characters(tmp_path: Path) -> None:
    rows = [("这家餐厅很好。", "a"), ("不好 at all", "b")]
    found = statistics("mine", Task(train=write_csv(tmp_path / "a.csv", rows)), WORDS)
    assert found.characters
    assert found.splits["train"].mean == (6 + 1 + 4) / 2  # a sign between spaces or characters is a word as it is elsewhere
    spaced = statistics("mine", Task(train=write_csv(tmp_path / "b.csv", [("two words", "a"), ("one", "b")])), WORDS)
    assert not spaced.characters
