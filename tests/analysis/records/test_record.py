"""Records: appended records are never lost, wrong ones are refused, damage costs one line at most."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.records import record_fields
from analysis.records.record import Records, read
from analysis.records.record_fields import RecordError

EVALUATION = {"trial": "t000", "stage_id": "ab", "split": "validation", "epoch": 1.0, "step": 27, "error_rate_percent": 9.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "records.jsonl"


def test_appended_records_are_read_back(path: Path) -> None:
    records = Records(path, "reviews")
    assert records.append("trial", trial="t000", status="started", params={"finetune.xi": 0.95}, label="papers’ setting")
    (row,), problems = read(path)
    assert problems == []
    assert {name: row[name] for name in ("event", "study", "session", "trial", "params")} == {
        "event": "trial",
        "study": "reviews",
        "session": 0,
        "trial": "t000",
        "params": {"finetune.xi": 0.95},
    }
    assert row["label"] == "papers’ setting"
    assert row["utc"].endswith("Z")


def test_a_resume_is_a_new_session_of_the_same_study(path: Path) -> None:
    Records(path, "reviews").append("study", status="started")
    again = Records(path)
    again.append("study", status="resumed")
    assert [(row["study"], row["session"]) for row in read(path)[0]] == [("reviews", 0), ("reviews", 1)]


@pytest.mark.parametrize(
    ("event", "fields", "said"),
    [
        ("trail", {}, "did you mean 'trial'"),
        ("trial", {"trial": "t000", "status": "started", "lable": "x"}, "did you mean 'label'"),
        ("trial", {"trial": 3, "status": "started"}, "trial.trial: 3 given, string expected"),
        ("trial", {"trial": "t000"}, "trial.status: missing"),
        ("evaluation", EVALUATION | {"step": 1.5}, "1.5 given, integer expected"),
        ("evaluation", EVALUATION | {"examples": True}, "True given, integer expected"),
    ],
)
def test_wrong_records_are_refused_and_leave_no_trace(path: Path, event: str, fields: dict[str, object], said: str) -> None:
    with pytest.raises(RecordError, match=said.replace("(", r"\(")):
        Records(path, "reviews").append(event, **fields)
    assert not path.exists()


def test_an_evaluation_is_kept_once_also_after_a_restart(path: Path) -> None:
    records = Records(path, "reviews")
    assert records.append("evaluation", **EVALUATION)
    assert not records.append("evaluation", **EVALUATION | {"error_rate_percent": 12.0, "epoch": 1})
    assert not Records(path).append("evaluation", **EVALUATION)
    for name, other in (("trial", "t001"), ("stage_id", "cd"), ("split", "test"), ("epoch", 2.0), ("step", 28)):
        assert records.append("evaluation", **EVALUATION | {name: other})
    assert len(read(path)[0]) == 6
    with open(path, "a") as file:  # as two writers at once would
        file.write(json.dumps({"event": "evaluation"} | EVALUATION) + "\n")
    rows, problems = read(path)
    assert len(rows) == 6
    assert rows[0]["error_rate_percent"] == 9.5
    assert problems == []


def test_values_that_are_not_finite_become_null_with_a_status(path: Path) -> None:
    values = {"loss": math.nan, "train_loss": math.inf, "status": "running", "group_rates": {"head": math.nan}}
    Records(path, "reviews").append("evaluation", **EVALUATION | values)
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (row,), _ = read(path)
    assert row["status"] == "diverged"
    assert row.get("loss") is None
    assert row["group_rates"] == {"head": None}


def test_array_scalars_and_odd_text_are_written_plainly(path: Path) -> None:
    row = EVALUATION | {"step": np.int64(27), "loss": np.float32(0.5), "device": "half a pair \ud83d, \u2028 and \x00"}
    Records(path, "reviews").append("evaluation", **row)
    (found,), problems = read(path)
    assert problems == []
    assert (found["step"], found["loss"]) == (27, 0.5)
    assert found["device"] == "half a pair ?, \u2028 and \x00"


@pytest.mark.parametrize("keep", [1, 10, -2])
def test_a_torn_line_is_skipped_then_cut_off_by_the_next_append(path: Path, keep: int) -> None:
    records = Records(path, "reviews")
    records.append("notice", text="first")
    whole = path.read_bytes()
    records.append("notice", text="second, torn by a crash")
    torn = path.read_bytes()[len(whole) :][:keep]
    path.write_bytes(whole + torn)
    rows, problems = read(path)
    assert [row["text"] for row in rows] == ["first"]
    assert problems == ["line 2: torn by a crash"]
    Records(path).append("notice", text="third")
    rows, problems = read(path)
    assert [row["text"] for row in rows] == ["first", "third"]
    assert problems == []


def test_a_line_that_lacks_only_its_line_feed_is_kept(path: Path) -> None:
    Records(path, "reviews").append("notice", text="first")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read(path)[0]) == 1
    Records(path).append("notice", text="second")
    assert [row["text"] for row in read(path)[0]] == ["first", "second"]


def test_foreign_lines_are_counted_and_the_rest_is_used(path: Path) -> None:
    Records(path, "reviews").append("notice", text="ours")
    foreign = [
        b"hello",
        b"[1, 2]",
        b'{"no": "event"}',
        b'{"event": "telemetry", "x": 1}',
        b'{"event": "trial", "trial": "t000"}',
        b'{"event": "evaluation", "split": "test", "loss": "low"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event": "notice", "text": ' + b"9" * 10_000 + b"}",
    ]
    with open(path, "ab") as file:
        file.write(b"\n".join(foreign) + b"\n\n")
        file.write(b'{"event": "notice", "text": "of a newer version", "colour": "red", "study": "reviews"}\n')
        file.write(b'{"event": "evaluation", "split": "test", "loss": NaN, "error_rate_percent": 1e999}\n')
    rows, problems = read(path)
    assert len(problems) == len(foreign)
    assert [row.get("text") for row in rows] == ["ours", "of a newer version", None]
    assert (rows[2]["loss"], rows[2]["error_rate_percent"]) == (None, None)
    assert "line 5" in problems[3]


@given(st.binary(max_size=400))
def test_no_bytes_can_break_reading(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "records.jsonl"
    path.write_bytes(b'{"event":"notice","text":"ours"}\n' + junk)
    rows, problems = read(path)
    assert rows[0]["text"] == "ours"
    assert len(problems) <= junk.count(b"\n") + 1
    Records(path, "reviews").append("notice", text="after")
    assert read(path)[0][-1]["text"] == "after"


def test_a_file_that_does_not_exist_holds_nothing(path: Path) -> None:
    assert read(path) == ([], [])


def test_threads_share_a_writer(path: Path) -> None:
    records = Records(path, "reviews")

    def work(number: int) -> None:
        for step in range(20):
            records.append("evaluation", **EVALUATION | {"trial": f"t{number:03d}", "step": step})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, problems = read(path)
    assert len({(row["trial"], row["step"]) for row in rows}) == 80
    assert problems == []


def test_a_full_disk_leaves_the_file_whole(path: Path) -> None:
    code = (
        "import resource, signal, sys; from analysis.records.record import Records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "records = Records(sys.argv[1], 'reviews'); records.append('notice', text='first')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try: records.append('notice', text='x' * 1000)\n"
        "except OSError: print('refused')\n"
        "records.append('notice', text='small')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "refused\n"
    rows, problems = read(path)
    assert [row["text"] for row in rows] == ["first", "small"]
    assert problems == []


def test_a_killed_writer_loses_nothing_that_append_returned_from(path: Path) -> None:
    code = (
        "import itertools, sys; from analysis.records.record import Records\n"
        "records = Records(sys.argv[1], 'reviews')\n"
        "for n in itertools.count(): records.append('notice', text=str(n) + 'x' * 2000); print(n, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(30)]
        process.kill()
        said += process.stdout.readlines()
    last = int(said[-1])
    rows, problems = read(path)
    assert [int(row["text"].rstrip("x")) for row in rows][: last + 1] == list(range(last + 1))
    assert len(problems) <= 1


def test_accepted_inputs_let_the_same_evaluation_be_written_again(path: Path) -> None:
    records = Records(path, "reviews")
    evaluation = {"trial": "t000", "split": "validation", "step": 1}
    records.append("study", status="started")
    assert [records.append("evaluation", **evaluation) for _ in range(2)] == [True, False]
    records.append("inputs", inputs={"a": {"digest": "1"}})
    assert not records.append("evaluation", **evaluation), "the same inputs change nothing"
    records.append("inputs", inputs={"a": {"digest": "2"}}, changed=["a: another content"])
    assert [records.append("evaluation", **evaluation) for _ in range(2)] == [True, False]
    assert not Records(path).append("evaluation", **evaluation)
    assert [row["event"] for row in read(path)[0]] == ["study", "inputs", "inputs", "evaluation"]


def test_the_tables_of_fields_document_themselves() -> None:
    text = record_fields.document()
    for event, table in record_fields.FIELDS.items():
        assert f"## `{event}`" in text
        for name, field in (record_fields.COMMON | table).items():
            assert f"| `{name}`" in text
            assert field.meaning
            assert field.type in record_fields.JSON_NAMES


def test_needs_the_standard_library_only() -> None:
    code = (
        "import sys; old = {*sys.modules}; import analysis.records.record; print(*{m.split('.')[0] for m in {*sys.modules} - old})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ""}
    )
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"analysis"}
    assert foreign == set()
