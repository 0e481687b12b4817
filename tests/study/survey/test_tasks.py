"""`study tasks`: the table, and statistics of anything that can be named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from study.survey.dataset_statistics import QUICKSTART, Ruler, statistics
from study.survey.tasks import document, show_statistics
from tests.helpers import TINY_BERT, write_csv
from tests.study.tiny import answer, fits, inside, refused, write_study
from tests.trainables.families import checkpoint
from trainables.data.known_tasks import TABLE
from trainables.settings.task import Task

ROWS = [("a good film", "yes"), ("a bad film", "no"), ("a bad film", "no"), ("one two three four", "yes"), ("no", "no")]


def test_the_table_names_every_set_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = answer(capsys, "tasks")
    assert {line.split()[0] for line in out.splitlines() if line and line[0] != " "} >= set(TABLE)
    assert fits(out)
    for part in ("hub stanfordnlp/imdb (text -> label)", "by hand; licence: CC BY 4.0", "macro-F1", "arXiv:2004.10964"):
        assert part in out


def test_a_named_set_says_how_to_bring_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = answer(capsys, "tasks", "rct", "imdb")
    assert fits(out)
    assert "dont_stop_pretraining/data/rct-20k/" in out
    assert "aclImdb_v1.tar.gz" in out
    assert "sogou" not in out


def test_the_table_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(answer(capsys, "tasks", "--json"))}
    assert list(rows) == list(TABLE)
    assert rows["yahoo_answers"]["text"] == ["question_title", "question_content"]
    assert (rows["yahoo_answers"]["text_pair"], rows["imdb"]["text_pair"]) == (["best_answer"], None)
    assert rows["ag_news"]["reported"] == {"sun2019": "error rate", "gururangan2020": "macro-F1"}
    assert (rows["chemprot"]["source"], rows["chemprot"]["hub"], rows["chemprot"]["classes"]) == ("by hand", None, 13)
    assert (rows["sls_imdb"]["source"], rows["sls_imdb"]["by_hand"]) == ("package", None)


def test_statistics_of_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "mine.csv", ROWS, header=("review", "verdict"))
    arguments = ("tasks", "--stats", path, "--text", "review", "--label", "verdict", "--limit", 3)
    (found,) = json.loads(answer(capsys, *arguments, "--json"))
    split = found["splits"]["train"]
    assert (found["name"], found["classes"], found["limit"], split["examples"]) == ("mine.csv", 2, 3, 5)
    assert (split["repeats_exact"], split["labels"]) == (1, {"no": 3, "yes": 2})
    out = answer(capsys, *arguments)
    assert fits(out)
    lines = {line[:32].strip(): line[32:].strip() for line in out.splitlines()}
    assert (lines["examples"], lines["largest class"], lines["repeated in the split"]) == ("5", "no", "1")
    assert "over 3, %" in lines


def test_how_a_file_is_written_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes('text;label\n"naïve;pos\nfine\\nor not;neg\n'.encode("cp1252"))
    arguments: tuple[object, ...] = ("tasks", "--stats", path)
    for option, fault in [
        (("--encoding", "cp1252"), "give `--encoding cp1252`"),
        (("--delimiter", ";"), 'give `--delimiter ";"`'),
        (("--quoting", "none"), "give `--quoting none`"),
    ]:
        code, out, err = inside(capsys, *arguments)
        assert (code, out) == (2, "")
        assert fault in err
        arguments = (*arguments, *option)
    (found,) = json.loads(answer(capsys, *arguments, "--json"))
    assert found["splits"]["train"]["labels"] == {"neg": 1, "pos": 1}
    out = answer(capsys, *arguments)
    assert fits(out)
    assert "notice:" in out
    assert "first \\n on line 3" in out
    code, _, err = inside(capsys, *arguments, "--encoding", "cp1253x")
    assert (code, "encoding: 'cp1253x' is not known; did you mean 'cp1253'?" in err) == (2, True)


def test_statistics_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip(str(QUICKSTART.package))
    folder = Path(str(package.__file__)).parent / str(QUICKSTART.folder)
    (tmp_path / "faq.csv").write_text("q,more,a,topic\na film,,so bad,x\none,two,,y\na,b,c d e,x\n", encoding="utf-8")
    files = (tmp_path / "faq.csv", "--label", "topic", "--encoder", folder, "--text", "q", "--text", "more")
    arguments = ("tasks", "--stats", *files, "--text-pair", "a", "--limit", 7)
    (found,) = json.loads(answer(capsys, *arguments, "--json"))
    split = found["splits"]["train"]
    assert (found["pairs"], found["special_tokens"]) == (True, 3)
    assert split["mean_of_sides"] == pytest.approx([2, 5 / 3])
    assert (split["mean"], split["maximum"]) == (pytest.approx(11 / 3), 5)
    assert split["over_limit_percent"] == pytest.approx(100 / 3), "five pieces and three special tokens"
    out = answer(capsys, *arguments)
    assert fits(out)
    assert "and 3 special tokens a pair" in " ".join(out.split())
    assert [line.split()[-1] for line in out.splitlines() if "of the first" in line or "of the second" in line] == ["2.0", "1.7"]
    assert "of the second" not in answer(capsys, "tasks", "--stats", *files)
    for wrong, fault in [("b", "there is no column 'b'"), ("q", "text_pair: 'q' is a column of `text` already")]:
        code, _, err = inside(capsys, *arguments, "--text-pair", wrong)
        assert (code, fault in err) == (2, True), err


def test_statistics_of_known_tasks_and_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[dict[str, Any]] = json.loads(answer(capsys, "tasks", "--stats", "sls_yelp", write_study(tmp_path), "--json"))
    assert [each["name"] for each in found] == ["sls_yelp", "reviews"]
    # The encoder of that study has no vocabulary before it is trained.
    assert {each["unit"] for each in found} == {"words"}
    assert found[1]["splits"]["test"]["examples"] == 24
    assert [each["name"] for each in json.loads(answer(capsys, "tasks", "--stats", "--json"))] == [
        "sls_imdb",
        "sls_yelp",
        "sls_amazon",
    ]


def test_the_encoder_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip(str(QUICKSTART.package))
    folder = Path(str(package.__file__)).parent / str(QUICKSTART.folder)
    by_name, by_folder = (
        json.loads(answer(capsys, "tasks", "--stats", "sls_yelp", "--encoder", name, "--json"))[0]
        for name in (QUICKSTART.package, folder)
    )
    assert (by_name["unit"], by_name["special_tokens"], by_name["encoder"]) == ("pieces", 2, QUICKSTART.package)
    assert by_folder["splits"] == by_name["splits"]


def damaged(folder: Path, how: str) -> Path:
    """An encoder whose tokenizer fails in some way."""
    shutil.copytree(checkpoint("bert"), folder)
    path = folder / "tokenizer.json"
    whole = path.read_bytes()
    if how in ("missing", "of another kind"):
        for file in (path, folder / "vocab.txt"):
            file.unlink(missing_ok=True)
    if how == "of another kind":  # not what its settings name, without a mask token
        (folder / "spiece.model").touch()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": None}))
    elif how == "unknown piece":
        tokenizer = json.loads(whole)
        tokenizer["model"]["unk_token"] = "[NONE]"
        path.write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    elif how != "missing":
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other": b'{"model": 3}', "binary": b"\xff\x00"}[how])
    return folder


@pytest.mark.parametrize("how", ["cut", "empty", "other", "binary", "missing", "of another kind", "unknown piece"])
def test_a_tokenizer_that_fails_is_refused_in_words(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = damaged(tmp_path / "encoder", how)
    path = write_study(tmp_path / "whole", encoder={"folder": str(folder)})
    scratch = write_study(tmp_path / "scratch", encoder={"config": TINY_BERT, "tokenizer": str(folder)})
    mine = write_csv(tmp_path / "mine.csv", ROWS)
    for arguments, where in (
        ((path,), "encoder.folder"),
        ((scratch,), "encoder.tokenizer"),
        ((mine, "--encoder", folder), "--encoder"),
    ):
        said = refused(capsys, "tasks", "--stats", *arguments)
        assert f"{where}" in said
        assert "tokenizer" in said.replace("encoder.tokenizer", "")
        assert str(folder) in said


def test_wrong_input_is_named_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()
    mine = write_csv(tmp_path / "mine.csv", ROWS)
    for arguments, faults in [
        (["sls_imbd"], ["'sls_imbd' is not a known task; did you mean 'sls_imdb'?"]),
        ([mine], [f"{mine!r} is not a known task; for a file of your own: study tasks --stats FILE"]),
        (
            ["--stats", "chemport", "sciie"],
            ["'chemport' is neither a known task nor a file; did you mean 'chemprot'?", "sciie: the hub has no copy"],
        ),
        (
            ["--stats", tmp_path / "mein.csv", empty, mine, "--text", "txt"],
            [
                f"{tmp_path}/mein.csv: there is no such file; did you mean 'mine.csv'?",
                f"{empty}: the file is empty",
                f"{mine}: there is no column 'txt'; did you mean 'text'?",
            ],
        ),
        (["--stats", tmp_path / "no.yaml"], ["no.yaml: No such file or directory"]),
        (["--stats", mine, "--encoder", tmp_path / "nowhere"], [f"--encoder {tmp_path / 'nowhere'}: encoder.folder: no folder"]),
        (["--stats", mine, "--limit", 0], ["--limit"]),
    ]:
        code, out, err = inside(capsys, "tasks", *arguments)
        assert (code, out) == (2, "")
        for fault in faults:
            assert fault in err


def test_naming_a_set_that_must_be_brought_in_a_study_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, tasks={"chemprot": "known"}, task="chemprot")
    code, _, err = inside(capsys, "plan", path, "--store", tmp_path / "store")
    assert code == 2
    assert "tasks.chemprot: the hub has no copy that is known to be the paper's own; fetch train.jsonl" in err


def test_the_page_names_every_set() -> None:
    assert all(f"| `{name}` |" in document() for name in TABLE)


def test_lengths_in_characters_are_told(tmp_path: Path) -> None:
    task = Task(train=write_csv(tmp_path / "a.csv", [("这家餐厅很好。", "a"), ("不好 at all", "b")]))
    out = show_statistics([statistics("mine", task, Ruler("none is named", "words"))])
    assert "lengths in characters, since words are written without spaces" in " ".join(out.split())
    assert fits(out)
