"""Large runs: reading columns gives the same records and faults as reading rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures import study_figures
from analysis.pages import study_page
from analysis.records import bulk, record, record_fields
from analysis.records.run_folder import Run, load
from analysis.results.final_settings import Finals
from analysis.tables import csv_export, result_table
from tests.analysis.made_records import Story, make
from tests.analysis.measured import make as measured

SOUND = {"event": "evaluation", "utc": "2026-03-14T09:26:53.000Z", "session": 0, "trial": "t001", "split": "validation"}
SOUND |= {"stage": "finetune"}
STRANGE = [
    *('"epoch":1e999', '"epoch":NaN', '"step":5.0', '"epoch":5', '"epoch":true', '"epoch":null,"error_rate_percent":3'),
    *('"step":99999999999999999999', '"task":5', r'"task":"\ud800"', '"task":"ü"', '"task":"a\tb"', '"f1_by_label":{"a":0.5}'),
    *('"thresholds":[0.5]', '"unknown":1', '"seed":"one"', '"event":"trial"', '"event":"evaluation"', '"epoch":', '"loss":01'),
    *('"split":"test","error_rate_percent":4.5', '"epoch":-0.0,"macro_f1":1E-3', '"stage":null,"epoch":0,"error_rate_percent":1'),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even small runs have several."""
    monkeypatch.setattr(bulk, "BLOCK", 20_000)


def both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """The run by rows and by columns."""
    monkeypatch.setattr(bulk, "FROM", 10**12)
    rows = load(folder)
    monkeypatch.setattr(bulk, "FROM", 0)
    return rows, load(folder)


def same(rows: Run, columns: Run) -> None:
    assert columns.trials == rows.trials
    assert columns.problems == rows.problems
    known = record_fields.fields("evaluation")
    told = [
        [{k: v for k, v in row.items() if k in known and v is not None} for row in run.of("evaluation")] for run in (columns, rows)
    ]
    assert told[0] == told[1]
    assert columns.of("trial") == rows.of("trial")
    for name in ("sizes", "seconds", "state", "several", "metric", "space", "stages"):
        assert getattr(columns, name) == getattr(rows, name), name
    for names in (("split", "examples"), ("device",), ("task",), ("split", "epoch")):
        assert columns.distinct(*names) == rows.distinct(*names)


def scored(trial: str, epoch: float | None, **more: Any) -> dict[str, Any]:
    return SOUND | {"trial": trial, "stage_id": trial, "epoch": epoch, "step": 1, "error_rate_percent": 10.0} | more


def test_a_run_is_the_same_by_rows_and_by_columns(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = both(finished, monkeypatch)
    assert rows.columns is None
    assert columns.columns is not None
    assert len(columns.rows) < len(rows.rows) - 60
    same(rows, columns)
    assert result_table.result_text(Finals(columns)) == result_table.result_text(Finals(rows))
    assert "".join(csv_export.results_csv(columns)) == "".join(csv_export.results_csv(rows))
    assert csv_export.trials_csv(columns) == csv_export.trials_csv(rows)
    matter = study_page.Importance({}, 0)
    assert study_page.page(Finals(columns), matter, study_page.draw(Finals(columns), matter)) == study_page.page(
        Finals(rows), matter, study_page.draw(Finals(rows), matter)
    )


@pytest.mark.parametrize("part", ["started", "search", "finals", "selected"])
def test_unfinished_runs(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same(*both(make(tmp_path, part=part), monkeypatch))


@pytest.mark.parametrize("several", [False, True])
def test_other_metrics_and_several_labels(tmp_path: Path, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    has = rng.random((60, 3)) < 0.4 if several else rng.integers(0, 3, 60)
    for metric in ("macro_f1", "accuracy"):
        folder = measured(tmp_path / metric, list("abc"), has, {"it": [has, has]}, "subset_accuracy" if several else metric)
        same(*both(folder, monkeypatch))


@pytest.mark.parametrize("strange", STRANGE)
def test_columns_and_rows_agree_on_odd_lines(tmp_path: Path, strange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps(scored("t000", e, step=e), separators=(",", ":")) for e in range(1, 4)]
    lines.insert(1, json.dumps(SOUND, separators=(",", ":"))[:-1] + f',"stage_id":"x",{strange}}}')
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    same(*both(tmp_path, monkeypatch))


def test_torn_lines_empty_lines_and_other_spacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps(scored("t000", 1.0), separators=(",", ":"))
    texts = [
        "",
        "\n\n",
        line,
        f"{line}\n\n  \n{line[:40]}",
        f" {line} \r\n{json.dumps(scored('t1', 2.0))}\n",
        f"{line} {line}\n",
        f"{line}x\n",
    ]
    for text in texts:
        (tmp_path / "records.jsonl").write_text(text, newline="")
        same(*both(tmp_path, monkeypatch))


def test_of_two_records_of_one_evaluation_the_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way either of them is read."""
    plain, nested = scored("t000", 1.0, error_rate_percent=1.0), scored("t000", 1.0, by_task={"a": {}}, error_rate_percent=2.0)
    null = scored("t000", None, stage_id=None, error_rate_percent=3.0)
    for rows in (
        [plain, nested],
        [nested, plain],
        [plain, plain | {"error_rate_percent": 9.0}, null, null, nested],
        [null, plain, nested, null],
    ):
        (tmp_path / "records.jsonl").write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
        by_rows, by_columns = both(tmp_path, monkeypatch)
        same(by_rows, by_columns)
        assert len(by_rows.of("evaluation")) == len({(row["epoch"], row["stage_id"]) for row in rows})


def test_trials_that_begin_again_between_their_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(story: Story) -> None:
        for attempt in range(3):
            story.write("trial", trial="t900", phase="search", status="started", seed=None if attempt else 3, tokens=7 * attempt)
            for epoch in (1, 2):
                story.evaluation("t900", "search", "s", f"id{attempt}", 3, epoch, 20.0 - epoch - attempt)
            story.write(
                "trial", trial="t900", status="failed" if attempt < 2 else "complete", error_rate_percent=[None, 5.0, None][attempt]
            )
        story.evaluation("t901", "final", "s", "other", 1, 1, 9.0)  # without any record of the trial itself
        story.write("evaluation", trial="t902", split="validation", stage="multitask", stage_id="m", error_rate_percent=4.0)
        story.write("evaluation", split="validation", stage="pretrain", stage_id="p", loss=4.0)

    same(*both(make(tmp_path, part="search", edit=edit), monkeypatch))


def test_times_of_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = ["2026-03-14T09:26:53+01:00", "2026-03-14T09:26:54.000Z", "yesterday", "2026-03-14T08:00:00.000Z"]
    (tmp_path / "records.jsonl").write_text(
        "".join(json.dumps(scored("t0", at, utc=utc), separators=(",", ":")) + "\n" for at, utc in enumerate(times))
    )
    rows, columns = both(tmp_path, monkeypatch)
    same(rows, columns)
    assert columns.seconds > 0


def test_curves_of_many_points_are_thinned_on_the_page_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = [(float(at), float(at % 7)) for at in range(1000)]
    assert study_figures._thinned(curve, 11)[:2] == [curve[0], curve[100]]
    assert study_figures._thinned(curve, 11)[-1] == curve[-1]
    assert len(study_figures._thinned(curve, 11)) == 11
    assert study_figures._thinned(curve[:5], 11) == curve[:5]
    rows = [
        {"event": "evaluation", "trial": "t0", "split": "validation", "epoch": at + 1, "error_rate_percent": e} for at, e in curve
    ]
    monkeypatch.setattr(study_figures, "POINTS", 50)
    drawn = study_figures.curves(Run(Path("/nowhere"), rows, [], {}))
    assert drawn is not None
    assert "Curves are thinned to 50 points." in drawn.caption


def test_flat_records_are_read_as_nested_ones_are() -> None:
    """The short cut of the reader of rows: what needs no mending is left as it is, and only that."""
    for value in (
        "1.5",
        "1e999",
        "NaN",
        '"\\ud83d\\ude00"',
        '"\\ud800"',
        '{"a":NaN}',
        '["\\ud800"]',
        "true",
        "null",
        "1" + "0" * 400,
    ):
        found = record._parse(f'{{"x":{value},"y":0.5}}'.encode())
        assert found == record._plain(json.loads(f'{{"x":{value},"y":0.5}}'))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


def test_results_of_replaced_inputs_are_left_out_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = {"event": "trial", "trial": "t001", "phase": "search", "status": "complete", "session": 0}
    inputs = {"event": "inputs", "inputs": {"a": {"digest": "1"}}, "session": 1}
    lines = [
        {"event": "study", "status": "started", "session": 0},
        *(scored("t001", 1.0), trial, scored("t002", 1.0), scored("t001", 1.0, split="test")),
        inputs,
        scored("t003", 1.0),
        inputs | {"changed": ["a: another content"], "session": 2},
        *(scored("t001", 1.0, error_rate_percent=30.0), scored("t004", 1.0), scored("t004", 1.0)),
    ]
    for kept, text in ((2, lines), (0, lines[:8])):
        (tmp_path / "records.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in text))
        rows, columns = both(tmp_path, monkeypatch)
        same(rows, columns)
        assert [row["event"] for row in rows.rows[:3]] == ["study", "inputs", "inputs"]
        assert len(rows.of("evaluation")) == kept
    assert record.starts_again(lines[7])
    assert not record.starts_again(inputs)
