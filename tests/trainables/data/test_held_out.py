"""Held-out texts inside of other texts: found, taken out and told, and nothing else is touched."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import write_csv
from trainables.data.corpus import load_corpus
from trainables.data.held_out import LINES, HeldOut, boundaries
from trainables.data.normal_forms import bare
from trainables.data.scripts import SPACELESS
from trainables.data.splits import digest_of, load_task
from trainables.data.task_mixture import load_mixture
from trainables.settings.task import Task
from trainables.stages.selection import pool

HELD = [
    "The soup was cold.",
    "Never again! We left early.",
    "味道非常好,服务也好",
    "good",
    "?!",
    "ร้านนี้อร่อยมาก",
    "First line\nsecond line",
]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("A nice place.\nThe soup was cold.\nWe came back.", "A nice place.\n\nWe came back."),
        ("A nice place. The soup was cold. We came back.", "A nice place. We came back."),
        ("A nice place. THE SOUP -- was cold!! We came back.", "A nice place. We came back."),
        ('"The soup was cold." We came back.', "We came back."),
        ("- The soup was cold\r\n- We came back\r\n", "- We came back"),
        ("1\tThe soup was cold\tneg\n2\tWe came back\tpos", "1\tneg\n2\tWe came back\tpos"),
        ("We came.\u2028The soup was cold.\u2029Twice.", "We came.\u2028\u2029Twice."),
        ("We came.\fThe soup was cold.\fTwice.", "We came.\f\fTwice."),
        ("It rained. Never again! We left early. The end.", "It rained. The end."),
        ("It rained.\nNever again! We\nleft early.\nThe end.", "It rained.\n\nThe end."),  # wrapped
        ("It rained.\n\nThe soup\nwas cold.\n\nThe end.", "It rained.\n\n\n\nThe end."),
        ("我们来了。味道非常好，服务也好。还会来。", "我们来了。还会来。"),
        ("เรามา\nร้านนี้อร่อยมาก\nกลับบ้าน", "เรามา\n\nกลับบ้าน"),
        ("Before. First line second line. After.", "Before. After."),
        ("It rained.<br /><br />The soup was cold.<br>The end.", "It rained.<br /><br /><br>The end."),
        ("It rained.&lt;br /&gt;The soup<BR/>was cold.</p>The end.", "It rained.&lt;br /&gt;</p>The end."),
        ("It rained. The&nbsp;soup &#119;as cold. The end.", "It rained. The end."),
        ("เรามา ร้านนี้อร่อยมาก กลับบ้าน", "เรามา กลับบ้าน"),
        ("我们来了，味道非常好，服务也好，还会来。", "我们来了，还会来。"),
        ("Bad.\nGood!\nWorse.", "Bad.\n\nWorse."),  # a single word on a line of its own
        ("Bad.\n?! good\nWorse.", "Bad.\n\nWorse."),
        ("Bad.\n?!\nWorse.", "Bad.\n\nWorse."),
        ("The soup was cold. Never again! We left early.\nThe soup was cold", ""),
        ("* The soup was cold.\n* good\n--", ""),
    ],
)
def test_taken_out(text: str, rest: str) -> None:
    cut = HeldOut(HELD).cut(text)
    assert cut is not None
    assert cut.places
    assert cut.text == rest


@pytest.mark.parametrize(
    "text",
    [
        "We thought the soup was cold.",
        "The soup was cold, and so were we.",
        "The soup was colder. Never again would we leave early.",
        "Good food, good wine.",
        "我们觉得味道非常好,服务也好。",
        "Really?! Yes. No!",
        "Nothing\n\n\n here\x00 at all. ❤️",
    ],
)
def test_left_alone(text: str) -> None:
    assert HeldOut(HELD).cut(text) is None


@pytest.mark.parametrize(
    ("texts", "rests", "places"),
    [
        (["It rained.", "Never again!", "We left early.", "The end."], ["It rained.", "", "", "The end."], 1),
        (["It rained. Never again!", "We left", "early. The end."], ["It rained.", "", "The end."], 1),
        (["First line", "second line"] * 2, [""] * 4, 2),
        (["a", "b", "c d e f g"], ["", "", ""], 1),
        (["Never again! We left early.", "first line", "third line"], None, 0),
        (["Never again!", "We", "left"], None, 0),
        (["It was never again!", "We left early."], None, 0),
        (["go", "od"], None, 0),
        ([], None, 0),
    ],
)
def test_taken_out_of_texts_that_follow_each_other(texts: list[str], rests: list[str] | None, places: int) -> None:
    assert HeldOut([*HELD, "a b c d e f g"]).cut_across(texts) == (texts if rests is None else rests, places)


def test_single_words_are_whole_lines_only() -> None:
    held = HeldOut(["good", "好的", "Yes!", "antidisestablishmentarianism"])
    for text in ("We came. Good! Yes. We left.", "好的。我们来了。"):
        cut = held.cut(text)
        assert cut is not None
        assert (cut.text, cut.places) == (text, 0)
        assert cut.left == text.count("Good") + text.count("Yes") + text.count("好的")
    cut = held.cut("We came. Antidisestablishmentarianism! We left.")
    assert cut is not None
    assert cut.text == "We came. We left."  # so long a word is no accident


def test_what_stands_together_once_others_are_gone_is_found_too() -> None:
    cut = HeldOut(["one two three four", "in between them"]).cut("Start.\nOne two.\nIn between them.\nThree four.\nEnd.")
    assert cut is not None
    assert cut.text.split() == ["Start.", "End."]


def test_signs_of_emoji_are_no_letters() -> None:
    """Variation selectors are marks; two hearts and a skull are not copies for that."""
    assert bare("❤️") != bare("☠️")
    assert bare("❤️ good") == bare("good")
    assert bare("cafe\u0301") == bare("CAFÉ") != bare("cafe")
    assert bare("a\0b") == bare("ab")


SIGNS = [*"a好.!?…\"')。！。, ，、\n\r\t\u2028<>/&;", "...", "<br>", "<P />", "&lt;br&gt;", "&lt;/p>", "<b>", "\xa0", "lt;"]
CLOSING = "\"'\u201d\u2019\u00bb\u203a)\\]}\u300d\u300f\uff09"
ENDING = "\u3002\uff01\uff1f\uff0e\u0964\u0965\u061f\u06d4\u1362\u0589"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(SIGNS), max_size=12).map("".join))
def test_boundaries_are_those_of_the_plain_alternatives(text: str) -> None:
    sentence = rf"[.!?\u2026]+[{CLOSING}]*\s+|[{ENDING}]+[{CLOSING}]*\s*"
    line = rf"[\t{LINES}]\s*|(?:<|&lt;)/?(?:[bB][rR]|[pP])\s*/?(?:>|&gt;)\s*"
    clause = rf"(?<=[{SPACELESS}])[ \u3000,;\uff0c\u3001\uff1b\uff1a]+"
    plain = re.compile(f"{sentence}|{line}|{clause}")
    assert [found.span() for found in boundaries(text).finditer(text)] == [found.span() for found in plain.finditer(text)]


PIECES = st.sampled_from(["One day.", "two", "Three more words", "好。", "四个字的句子。", "?!", "four\nlines", "Five!"])
BETWEEN = st.sampled_from([" ", "\n", "\n\n", "\r\n", "\t", "\u2028", ""])
DOCUMENTS = st.lists(st.tuples(PIECES, BETWEEN), min_size=1, max_size=8).map(lambda parts: "".join(a + b for a, b in parts))


@settings(max_examples=120, deadline=None)
@given(st.lists(DOCUMENTS.filter(str.strip), min_size=1, max_size=4), DOCUMENTS)
def test_no_line_and_no_run_of_lines_that_is_held_out_is_left(held: list[str], text: str) -> None:
    """Against all runs of lines; nothing is cut of what is left, and no letter comes from elsewhere."""
    index, forbidden = HeldOut(held), {bare(each) for each in held}
    cut = index.cut(text)
    rest = text if cut is None else cut.text
    lines = rest.splitlines()
    for start in range(len(lines)):
        for end in range(start + 1, len(lines) + 1):
            run = "\n".join(lines[start:end])
            if run.strip() and (end == start + 1 or len(bare(run)) > 20):
                assert bare(run) not in forbidden, run
    again = index.cut(rest) if rest else None
    assert again is None or not again.places
    remaining = iter(bare(text))
    assert all(letter in remaining for letter in (bare(rest) if rest else ""))


# Corpora

VALIDATION = [("carved one away", "a"), ("carved two away", "b")]
TEST = [("held number one here", "a"), ("held number two here", "b"), ("good", "a")]
TRAIN = [(f"text number {i}", "ab"[i % 2]) for i in range(6)]


def task_of(folder: Path, train: list[tuple[str, str]] = TRAIN, test: list[tuple[str, str]] = TEST) -> Task:
    folder.mkdir(exist_ok=True)
    splits = {"train": train, "test": test, "validation": VALIDATION}
    return Task(**{name: write_csv(folder / f"{name}.csv", rows) for name, rows in splits.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("stray", ["\n", "  \n", "\r\n", "\n\n\f\n", "\u3000\n"])
def test_a_stray_blank_line_keeps_no_held_out_text_in(stray: str, tmp_path: Path) -> None:
    lines = [f"a remark {i}" for i in range(30)]
    path = tmp_path / "lines.txt"
    path.write_text(
        "\n".join([*lines[:20], "Held number one, here!", *lines[20:25]]) + f"\n{stray}" + "\n".join([*lines[25:], TEST[1][0]])
    )
    corpus = load_corpus([], {"mine": task_of(tmp_path / "mine")}, [str(path)])
    assert corpus.texts == (" ".join(lines[:25]), " ".join(lines[25:]))
    assert corpus.removed == 0
    hint = "separated by blank lines, of up to 26 lines; if each line is a text, remove the blank lines"
    taken = "2 of 2 texts hold texts of a test or validation split as lines or sentences: these 2 were taken out, the rest is read"
    assert corpus.notices == (f"corpus lines.txt: 2 documents in lines.txt, {hint}", f"corpus lines.txt: {taken}")


@pytest.mark.parametrize(
    ("held", "joint"),
    [
        ("First para of it.\n\nSecond para.", "\n\n"),
        ("First line of it.\nSecond line.", "\n"),
        ("One sentence here. Another one.", "\n"),
        ("A start.\n\nAn end of it.", "\n"),
    ],
)
def test_a_held_out_text_is_taken_out_of_several_documents(held: str, joint: str, tmp_path: Path) -> None:
    others = [f"a remark {i}" for i in range(30)]
    (tmp_path / "a.txt").write_text(joint.join([*others[:20], held.replace(". A", ".\nA"), *others[20:]]))
    tasks = {"mine": task_of(tmp_path / "mine", test=[(held, "a"), ("else", "b")])}
    corpus = load_corpus([], tasks, [str(tmp_path / "a.txt")])
    assert " ".join(corpus.texts).split() == " ".join(others).split()
    told = "1 times texts that follow each other make up a text of a test or validation split"
    assert f"corpus a.txt: {told}: it was taken out of them, the rest is read" in corpus.notices


def test_files_tables_and_tasks_follow_one_rule(tmp_path: Path) -> None:
    """A test text of a task that the corpus does not read; single words stay in sentences, and that is told."""
    other = task_of(
        tmp_path / "other",
        [("text 1.\nHeld number one here.\nText 2. Good! Text 3.", "a"), ("else", "b")],
        [("q r s", "a"), ("t", "b")],
    )
    table = tmp_path / "rows.jsonl"
    table.write_text('{"text": "Some words. Q r, s! More words."}\n{"text": "Q r s.\\n Carved one away"}\n{"text": "last"}\n')
    tasks = {"mine": task_of(tmp_path / "mine"), "other": other}
    corpus = load_corpus(["other"], tasks, [str(table)])
    assert set(corpus.texts) == {"text 1.\n\nText 2. Good! Text 3.", "else", "Some words. More words.", "last"}
    assert corpus.removed == 1
    word = "1 times a sentence of one word that is a text of a test or validation split"
    assert [notice.partition(": ")[2] for notice in corpus.notices[1:]] == [
        "1 of 5 texts occur in a test or validation split and were removed",
        "2 of 5 texts hold texts of a test or validation split as lines or sentences: these 2 were taken out, the rest is read",
        f"{word}: it stays, since a single word is taken out as a whole line only",
    ]


def test_each_text_of_a_pair_is_held_out_and_read(tmp_path: Path) -> None:
    def pairs(name: str, rows: list[tuple[str, str, str]]) -> str:
        (tmp_path / name).write_text("text,answer,label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
        return str(tmp_path / name)

    train = [("who came here", "my old friend", "a"), ("who left", "no", "b"), ("what was asked", "her name", "a")]
    test = [("what was asked", "no", "a"), ("when was that", "a long time ago", "b")]
    paired = Task(
        train=pairs("train.csv", train),
        test=pairs("test.csv", test),
        validation=pairs("validation.csv", [("x", "y", "a"), ("z", "w", "b")]),
        text_pair="answer",
    )
    (tmp_path / "lines.txt").write_text("When was that?\nA long time ago!\nwhen was that -- a long time ago\nno\nfine\n")
    corpus = load_corpus(["p"], {"p": paired}, [str(tmp_path / "lines.txt")])
    assert set(corpus.texts) == {"who came here my old friend", "who left no", "her name", "no", "fine"}
    single = task_of(tmp_path / "single", test=[("who came here", "a"), ("my", "b")])
    assert "my old friend" in load_corpus(["p"], {"p": paired, "s": single}).texts


def test_corpora_that_hold_none_keep_their_names(tmp_path: Path) -> None:
    """By the texts as they always were: lines of a document joined by a space, all else untouched."""
    (tmp_path / "a.txt").write_text("One day.\n  Two.\t2\r\n\nThree?\u2028 Four. good. \n", newline="")
    (tmp_path / "b.csv").write_text('text\n"One\n\nday. "\n x\n')
    mine = task_of(tmp_path / "mine", [*TRAIN, ("with\n lines. and a good word", "a")])
    for names, file, texts in (
        ([], "a.txt", ("One day. Two.\t2", "Three?\u2028 Four. good.")),
        ([], "b.csv", ("One\n\nday. ", " x")),
        (["mine"], None, (*(text for text, _ in TRAIN), "with\n lines. and a good word")),
    ):
        corpus = load_corpus(names, {"mine": mine}, [str(tmp_path / file)] if file else [])
        assert corpus.texts == texts
        assert corpus.digest == digest_of(texts)


def test_a_text_of_the_target_stays_its_own_once_something_was_taken_out(tmp_path: Path) -> None:
    document = "Long text. Held number one here. The end."
    mine = task_of(tmp_path / "mine", [*TRAIN, (document, "a")])
    (tmp_path / "more.txt").write_text(f"{document}\nsomething else\n")
    corpus = load_corpus(["mine"], {"mine": mine}, [str(tmp_path / "more.txt")])
    assert "Long text. The end." in corpus.texts
    found = pool(corpus, load_task("mine", mine), True)
    assert found.candidates == ("something else",)
    assert len(found.own) == len(TRAIN) + 1


def test_labelled_texts_that_hold_one_are_left_out_whole(tmp_path: Path) -> None:
    tasks = {
        "one": task_of(
            tmp_path / "one", [*TRAIN, ("A start. Held number one here. An end.", "a"), ("A start.\ngood\nAn end.", "b")]
        ),
        "two": task_of(tmp_path / "two", [(f"other {i}", "ab"[i % 2]) for i in range(4)]),
    }
    found = load_mixture(tasks, tasks)
    kept = {text for data in found.tasks.values() for text in data.train.texts}
    assert kept == {*(text for text, _ in TRAIN), "A start.\ngood\nAn end.", *(f"other {i}" for i in range(4))}
    told = "hold a text of a validation or test split as a line or sentence and were removed"
    assert found.notices[-1] == f"multitask: 1 of 8 training texts of one {told}"


@settings(max_examples=15, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.lists(DOCUMENTS.filter(str.strip), min_size=1, max_size=3))
def test_a_corpus_of_any_documents_holds_no_line_of_a_test_split(documents: list[str], held: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mine = task_of(Path(folder) / "mine", test=[(text, label) for text in held for label in "ab"])
        (Path(folder) / "a.txt").write_text("\n\n".join([*documents, "the last one stays"]), newline="")
        corpus = load_corpus([], {"mine": mine}, [f"{folder}/a.txt"])
        forbidden = {bare(text) for text in load_task("mine", mine).test.texts}
        assert not forbidden & {bare(text) for text in corpus.texts}
