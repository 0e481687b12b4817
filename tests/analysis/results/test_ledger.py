"""The ledger: every cell once, with its state and published number; unusable entries are reported, the others are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.pages import reports
from analysis.records.record import Records
from analysis.results.ledger import Ledger, shared_stages
from analysis.results.read_ablation import ledger
from analysis.tables.published_layout import average_against, layout, missing
from tests.analysis.ablations import TABLE2, TEXTS, Story, build, table2_outcomes, write_predictions, wrong


def made(tmp_path: Path, about: dict[str, Any] | None = None, outcomes: Any = None, **how: Any) -> Ledger:
    return ledger(build(tmp_path / "run", about or TABLE2, table2_outcomes() if outcomes is None else outcomes, **how))


def test_states_of_cells(tmp_path: Path) -> None:
    outcomes: dict[tuple[str, str], list[Any]] = {
        ("imdb", "head-only"): [wrong(40), wrong(44, 1), wrong(36, 2)],
        ("imdb", "tail-only"): [wrong(40), "untested", "running"],
        ("imdb", "head+tail"): ["failed", "failed", "failed"],
        ("sls_yelp", "head-only"): ["diverged", "diverged", "diverged"],
        ("sls_yelp", "tail-only"): [wrong(40), wrong(44, 1), "diverged"],
    }
    found = made(tmp_path, outcomes=outcomes)
    states = [cell.state for cell in found.cells]
    assert states == ["complete", "unfinished", "failed", "diverged", "complete", "missing"]
    assert [len(cell.finished) for cell in found.cells] == [3, 1, 0, 0, 2, 0]
    first = found.cells[0]
    assert (first.mean, first.sd) == (10.0, 1.0)
    assert first.losses is not None
    assert first.losses.shape == (3, TEXTS)
    assert first.published is not None
    assert first.published.text == "5.63"
    said = "\n".join(missing(found))
    assert "1 of 6 cells not begun: head+tail (sls_yelp)." in said
    assert "head+tail (imdb) failed: OSError: disk." in said


def test_nothing_has_begun(tmp_path: Path) -> None:
    found = made(tmp_path, outcomes={}, finished=False)
    assert {cell.state for cell in found.cells} == {"missing"}
    assert not found.finished
    table = layout(found)
    assert {shown.ours for _, row in table.rows for shown in row} == {"missing"}
    assert [shown.paper for _, row in table.rows for shown in row][:2] == ["5.63", "2.58"]
    assert "6 of 6 cells not begun" in "\n".join(missing(found))


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = made(tmp_path, TABLE2 | {"seeds": 1}, {("imdb", "head-only"): [wrong(40)], ("imdb", "tail-only"): [wrong(90)]})
    cell = found.cells[0]
    assert (cell.state, cell.mean, cell.sd, cell.interval) == ("complete", 10.0, None, None)
    table = layout(found)
    assert [row[0].ours for _, row in table.rows] == ["10.00 (1)", "22.50 (1)", "missing"]
    assert [row[0].mark for _, row in table.rows] == ["best", "", ""]
    assert "One seed only" in " ".join(table.notes)
    assert "its uncertainty is unknown" in " ".join(table.caption)


def test_a_cell_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, {("imdb", "head-only"): [wrong(40), wrong(44, 1), wrong(36, 2)]})
    story = Story(folder / "imdb", "imdb")
    story.count = 7
    story.final("head-only", {"finetune.truncation": "head"}, 1, wrong(200))
    found = ledger(folder)
    assert found.cells[0].scores == [10.0, 11.0, 9.0]
    assert "imdb: head-only has seed 1 twice (imdb/f01, imdb/f07); the first counts" in found.problems


def test_a_seed_that_failed_and_was_run_again_counts(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, {("imdb", "head-only"): ["failed", wrong(44, 1)]})
    story = Story(folder / "imdb", "imdb")
    story.count = 7
    story.final("head-only", {}, 0, wrong(40))
    found = ledger(folder)
    assert found.cells[0].scores == [10.0, 11.0]
    assert not [problem for problem in found.problems if "twice" in problem]


def test_broken_lines_cost_themselves_only(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    path = folder / "imdb" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    foreign = [b'{"event": "of another program"}\n', b"[1, 2]\n", b'{"event":"evaluation","split":"validation"\n', b"\x00\xff\n"]
    path.write_bytes(b"".join([*foreign, *lines]) + b'{"event":"trial","tri')
    found = ledger(folder)
    assert found.cells[0].scores == [20.0, 19.0, 21.0]
    assert any(
        problem.startswith("imdb: 5 line(s) of the records could not be used (line 1: unknown event") for problem in found.problems
    )


def test_predictions_that_do_not_fit(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    (folder / "imdb/predictions/f00-test.parquet").unlink()
    (folder / "imdb/predictions/f03-test.parquet").write_bytes(b"PAR1 cut")
    truth = np.zeros(TEXTS, dtype=int)
    write_predictions(folder / "imdb", "f06", truth, truth)
    found = ledger(folder)
    assert [cell.losses is None for cell in found.cells[:3]] == [True, True, True]
    assert [cell.mean for cell in found.cells[:3]] == [20.0, 10.5, 10.0]  # the records still say it
    said = "\n".join(found.problems)
    assert "imdb/f00: no test predictions" in said
    assert "imdb/f03: f03-test.parquet" in said
    assert "imdb/f06: the test predictions give another score than the records" in said
    assert "seeds of head+tail were tested on different texts" in said


@pytest.mark.parametrize(("mine", "theirs", "same"), [("a", "a", True), ("a", "b", False), ("a", None, True), (None, None, True)])
def test_cells_tested_on_splits_that_differ_are_not_compared(
    mine: str | None, theirs: str | None, same: bool, tmp_path: Path
) -> None:
    counts = {"head-only": (80, 76, 84), "tail-only": (42, 40, 44)}
    outcomes = {("imdb", row): [wrong(count, seed) for seed, count in enumerate(each)] for row, each in counts.items()}
    about = TABLE2 | {"tasks": {"imdb": TABLE2["tasks"]["imdb"]}}
    run = build(tmp_path / "run", about, outcomes, finished=False)
    story = Story(run / "later", "imdb")
    story.write("study", status="started")
    for seed, count in enumerate((40, 44, 36)):
        story.final("head+tail", {}, seed, wrong(count, seed))
    for folder, digest in (("imdb", mine), ("later", theirs)):
        if digest:
            inputs = {"tasks.imdb.test": {"digest": digest}, "tasks.imdb.train": {"digest": folder}}
            Records(run / folder / "records.jsonl", "imdb").append("inputs", inputs=inputs)
    written = yaml.safe_load((run / "ablation.yaml").read_text())
    written["studies"].append({"folder": "later", "task": "imdb", "settings": [2]})
    (run / "ablation.yaml").write_text(yaml.safe_dump(written))
    found = ledger(run)
    head, tail, both = found.cells
    assert (found.comparable(head, tail), found.comparable(tail, both)) == (True, same)
    said = [problem for problem in found.problems if "test splits differ" in problem]
    assert said == ([] if same else [SPLITS])
    reports.write([run], tmp_path / "out", ["json"])
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("not tested on the same texts" in str(claim) for claim in data["claims"]) != same


SPLITS = "imdb: the test splits differ (head-only, tail-only | head+tail), so that these groups are not compared with each other"


def test_unknown_published_names_are_reported(tmp_path: Path) -> None:
    settings = [*TABLE2["settings"][:2], {"row": "head+tale", "set": {}}]
    found = made(tmp_path, TABLE2 | {"settings": settings}, {})
    assert "the published table has no row 'head+tale' for these tasks; did you mean 'head+tail'" in "\n".join(found.problems)
    wrong_table = ledger(build(tmp_path / "t", TABLE2 | {"source": {"paper": "sun2019", "table": "Tabel 2"}}, {}))
    assert any("did you mean 'Table 2'" in problem for problem in wrong_table.problems)
    assert not any(cell.published for cell in wrong_table.cells)
    own = ledger(build(tmp_path / "own", {key: TABLE2[key] for key in ("name", "tasks", "settings", "seeds", "changes")}, {}))
    assert own.problems == []
    assert not [text for text in layout(own).caption if "the paper" in text]


def test_a_number_of_one_task_is_not_given_to_another(tmp_path: Path) -> None:
    settings = [{"row": "lr=2.0e-5", "column": "xi=0.95", "set": {}}]
    about = {"name": "table4", "source": {"paper": "sun2019", "table": "Table 4"}, "settings": settings, "seeds": 1}
    found = made(tmp_path, about | {"tasks": {"imdb": {}, "trec": {"published": "TREC"}, "mine": {"stands_for": "imdb"}}}, {})
    assert [cell.published.text if cell.published else None for cell in found.cells] == ["5.40", None, "5.40"]
    assert layout(found).head == ("imdb, xi=0.95", "TREC, xi=0.95", "mine (for imdb), xi=0.95")


def test_corpora_are_no_columns(tmp_path: Path) -> None:
    found = made(tmp_path, TABLE2 | {"tasks": TABLE2["tasks"] | {"pool": {"known": "pool", "target": False}}}, {})
    assert found.tasks == ["imdb", "sls_yelp"]


def test_a_run_folder_cannot_point_outside_itself(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    about = yaml.safe_load((folder / "ablation.yaml").read_text())
    about["studies"] = [
        {"folder": name, "task": "imdb", "settings": [0, 1, 2]} for name in ("../run/imdb", str(folder / "imdb"), "")
    ]
    (folder / "ablation.yaml").write_text(yaml.safe_dump(about))
    found = ledger(folder)
    assert {cell.state for cell in found.cells} == {"missing"}
    assert sum("not within the run folder" in problem for problem in found.problems) == 3


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: b: c", "\x00"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"ablation\.yaml"):
        ledger(tmp_path)


def test_odd_ablations_do_not_break_it(tmp_path: Path) -> None:
    odd: list[Any] = [
        {"tasks": ["a"]},
        {"settings": "x", "tasks": {"a": None}},
        {"settings": [None, 3], "tasks": {"a": 1}, "seeds": "x"},
        {"studies": [None, 3, {"folder": 7}], "claims": [3, {"better": 3, "worse": None}], "tasks": {"a": {}}},
    ]
    for number, about in enumerate(odd):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "ablation.yaml").write_text(json.dumps(about))
        layout(ledger(folder))
        missing(ledger(folder))


def test_f1_where_the_paper_gives_f1(tmp_path: Path) -> None:
    about = {
        "name": "dapt",
        "source": {"paper": "gururangan2020", "table": "Table 5"},
        "tasks": {"imdb": {"known": "imdb", "published": "IMDB"}},
        "settings": [{"row": "RoBERTa"}, {"row": "DAPT"}, {"row": "not-DAPT (irrelevant domain)", "table": "Table 3"}],
        "seeds": 2,
    }
    truth = np.random.default_rng(4).integers(0, 2, TEXTS)
    outcomes = {("imdb", "RoBERTa"): [wrong(40), wrong(44, 1)]}
    folder = build(tmp_path / "run", about, outcomes, labels=truth, scores={"macro_f1": 0.895})
    found = ledger(folder)
    first, second, third = found.cells
    assert (first.metric.name, first.mean) == ("macro_f1", 89.5)
    assert first.published is not None
    assert second.published is not None
    assert third.published is not None
    assert (first.published.shown, second.published.shown, third.published.shown) == ("95.0 ± 0.2", "95.4 ± 0.1", "94.1 ± 0.4")
    assert first.interval is not None
    assert first.interval[0] < 100 - first.losses.mean() < first.interval[1]  # type: ignore[union-attr]


def test_average_by_the_papers_rule(tmp_path: Path) -> None:
    """The rule gives the paper's own averages from the paper's own errors; IDPT and CDPT lack Sogou."""
    names = {"IMDb": 0, "Yelp P.": 1, "Yelp F.": 2, "TREC": 3, "Yah. A.": 4, "AG": 5, "DBP": 6, "Sogou": 7}
    rows = ["BERT-Feat", "BERT-FiT", "BERT-ITPT-FiT", "BERT-IDPT-FiT", "BERT-CDPT-FiT"]
    about = {
        "name": "table6",
        "source": {"paper": "sun2019", "table": "Table 6"},
        "tasks": {f"t{place}": {"published": name} for name, place in names.items()},
        "settings": [{"row": row} for row in rows],
        "seeds": 1,
    }
    outcomes = {("t0", "BERT-Feat"): [wrong(80)], ("t0", "BERT-FiT"): [wrong(60)], ("t1", "BERT-Feat"): [wrong(40)],
                ("t1", "BERT-FiT"): [wrong(20)], ("t2", "BERT-FiT"): [wrong(20)]}  # fmt: skip
    found = made(tmp_path, about, outcomes)
    assert average_against(found) == "BERT-Feat"
    table = layout(found)
    assert table.head[-1] == "Avg. gain on BERT-Feat, %"
    averages = {row: shown[-1] for row, shown in table.rows}
    printed = {"BERT-FiT": 9.22, "BERT-ITPT-FiT": 16.07, "BERT-IDPT-FiT": 18.57, "BERT-CDPT-FiT": 14.38}
    assert {row: float(averages[row].paper) for row in printed} == pytest.approx(printed, abs=0.02)
    assert averages["BERT-FiT"].ours == "37.50 (2 of 8 tasks)"  # (20/80 + 20/40) / 2
    assert averages["BERT-ITPT-FiT"].ours == "missing"
    assert averages["BERT-Feat"].ours == ""


def test_best_and_those_not_significantly_worse(tmp_path: Path) -> None:
    found = made(tmp_path)
    marks = {label: row[0].mark for label, row in layout(found).rows}
    assert marks == {"head-only": "", "tail-only": "level", "head+tail": "best"}
    same = {("imdb", row): [wrong(40), wrong(44, 1)] for row in ("head-only", "tail-only", "head+tail")}
    table = layout(ledger(build(tmp_path / "same", TABLE2, same)))
    assert [row[0].mark for _, row in table.rows] == ["best"] * 3


def test_seeds_that_share_a_pre_training_are_reported(tmp_path: Path) -> None:
    settings = [{"row": "100K further pre-training steps", "set": {"pretrain.steps": 100}}]
    found = made(tmp_path, TABLE2 | {"settings": settings}, {("imdb", settings[0]["row"]): [wrong(40), wrong(44, 1)]})
    assert shared_stages(found.cells)
    assert "start from one further pre-training" in " ".join(layout(found).notes)
    assert not shared_stages(made(tmp_path / "b").cells)


def test_evaluations_on_validation_are_read_for_curves_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million records are mostly such lines."""
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    from analysis.records import record

    parsed = []
    original = record._parse
    monkeypatch.setattr(record, "_parse", lambda line: parsed.append(line) or original(line))
    found = ledger(folder)
    assert found.cells[0].mean == 20.0
    assert not [line for line in parsed if b'"validation"' in line]
    ledger(build(tmp_path / "curve", TABLE2 | {"layout": "curve"}, table2_outcomes()))
    assert [line for line in parsed if b'"validation"' in line]


def test_a_row_that_lacks_a_task_is_not_missing_there(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    about = yaml.safe_load((folder / "ablation.yaml").read_text())
    about["studies"][1]["settings"] = [0, 1]
    (folder / "ablation.yaml").write_text(yaml.safe_dump(about))
    found = ledger(folder)
    assert [cell.row for cell in found.cells if cell.task == "sls_yelp"] == ["head-only", "tail-only"]
    last = dict(layout(found).rows)["head+tail"][1]
    assert (last.ours, last.paper, last.state) == ("", "", "none")


def test_rows_are_tasks_where_the_paper_has_it_so(tmp_path: Path) -> None:
    about = TABLE2 | {"source": TABLE2["source"] | {"rows": "tasks"}}
    table = layout(made(tmp_path, about))
    assert table.head == ("head-only", "tail-only", "head+tail")
    assert [row for row, _ in table.rows] == ["IMDb", "sls_yelp (for Sogou)"]
    assert [shown.paper for shown in table.rows[0][1]] == ["5.63", "5.44", "5.42"]
    assert table.rows[0][1][2].mark == "best"


def test_statistics_stand_beside_the_published_ones(tmp_path: Path) -> None:
    about = {"name": "table1", "title": "The data sets", "source": {"paper": "sun2019", "table": "Table 1", "rows": "tasks"}}
    about |= {"statistics": True, "tasks": {"sls_imdb": {"known": "sls_imdb", "published": "IMDb"}}}
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(about))
    row = {"classes": 2, "type": "Sentiment", "average_length": 18.44, "train_samples": 12345, "test_samples": None}
    (tmp_path / "statistics.json").write_text(json.dumps([{"name": "sls_imdb", "row": row}]))
    found = ledger(tmp_path)
    table = layout(found)
    assert found.finished
    assert table.head == ("classes", "type", "average length", "train samples", "test samples")
    ((label, shown),) = table.rows
    assert label == "sls_imdb (for IMDb)"
    assert [each.ours for each in shown] == ["2", "Sentiment", "18.44", "12,345", "–"]
    assert [each.paper for each in shown] == ["2", "Sentiment", "292", "25000", "25000"]
    page = reports.write([tmp_path]).page.read_text(encoding="utf-8")
    assert "The data sets</h1>" in page
    assert 'id="provenance"' not in page
    (tmp_path / "statistics.json").write_text("{")
    assert not ledger(tmp_path).finished
