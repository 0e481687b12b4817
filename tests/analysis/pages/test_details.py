"""Classes, lengths and calibration of settings on both kinds of page and in csv, from test predictions alone."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from analysis.pages import ablation_page, details, reports, study_page
from analysis.records import record, record_fields
from analysis.records.run_folder import load
from analysis.results import claims, sides
from analysis.results.final_settings import Finals
from analysis.results.read_ablation import ledger
from tests.analysis.ablations import TABLE2, TEXTS, build, table2_outcomes, wrong
from tests.analysis.measured import make
from tests.analysis.pages.test_study_page import Outline
from tests.analysis.stats.test_labels import NASTY, several, single
from trainables.scores import temperature

LENGTHS = np.random.default_rng(2).integers(3, 80, TEXTS)


def enrich(run: Path, pieces: bool = True, classes: int = 3) -> None:
    """Add matching probabilities to predictions, and lengths to all except the bag of words."""
    for path in sorted(run.glob("**/predictions/*.parquet")):
        table = pq.read_table(path)
        n, rng = table.num_rows, np.random.default_rng(len(path.name) + int(path.name[1]) if path.name[1].isdigit() else 0)
        if pa.types.is_list(table["prediction"].type):
            given = np.array([np.isin(np.arange(classes), row) for row in table["prediction"].to_pylist()])
            p = np.where(given, rng.uniform(0.4, 1, given.shape), rng.uniform(0, 0.4, given.shape))
        else:
            p = np.full((n, classes), 0.3 / classes)
            p[np.arange(n), table["prediction"].to_numpy()] += 0.7
            p = p * rng.uniform(0.8, 1.2, p.shape)
            p /= p.sum(axis=1, keepdims=True)
        table = table.append_column("probabilities", pa.array(list(p.astype(np.float32))))
        if pieces and record_fields.BAG_OF_WORDS not in path.name:
            table = table.append_column("pieces", pa.array(LENGTHS[:n]))
        pq.write_table(table, path)


def heat(run: Path, label: str, temperature: float) -> None:
    """Record a temperature with the test scores of the finals of a setting."""
    path = run / "records.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    named = {row["trial"] for row in records if row["event"] == "trial" and row.get("label") == label}
    for row in records:
        if row["event"] == "evaluation" and row["split"] == "test" and row["trial"] in named:
            row["temperature"] = temperature
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def text_of(page: Path) -> str:
    text = re.sub(r"<(style|script).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an ablation on two tasks, one unfinished, with lengths and probabilities in the predictions."""
    about = TABLE2 | {"recipe": [{"finetune": {"max_length": 16}}]}
    folder = build(tmp_path_factory.mktemp("table2") / "run", about, table2_outcomes(), finished=False)
    enrich(folder)
    for task in about["tasks"]:
        study = {"recipe": [{"finetune": {"name": "finetune", "max_length": 16, "truncation": "head+tail"}}]}
        (folder / task / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        plan = record.Records(folder / task / "records.jsonl", task)
        plan.append("plan", labels=["=bad", "<b>good"], splits={})
    return folder


def test_the_page_of_an_ablation_looks_at_the_sides_of_its_first_claim(run: Path, tmp_path: Path) -> None:
    page = reports.write([run], tmp_path).page
    text = text_of(page)
    assert "IMDb: head+tail beside head-only" in text
    assert "sls_yelp (for Sogou): head-only " in text, "one setting has a number there"
    assert "head+tail cuts at 16 pieces." in text
    assert "longer than 16 %" in text
    assert "Classes of head+tail class texts F1 % head-only F1 %" in text
    assert "<b>good" in text
    outline = Outline(page.read_text(encoding="utf-8"))
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.asks == []
    assert all(deeper - one <= 1 for one, deeper in zip(outline.headings, outline.headings[1:], strict=False))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"reliability-0.svg", "lengths-0.svg", "reliability-1.svg", "lengths-1.svg"}
    svg = (tmp_path / "figures" / "reliability-0.svg").read_text(encoding="utf-8")
    assert re.search(r"head\+tail: [\d.]+ texts with \d+ to \d+ %, on average [\d.]+ %; [\d.]+ % right", svg)


def test_csv_of_an_ablation_has_every_cell_with_a_number(run: Path, tmp_path: Path) -> None:
    reports.write([run], tmp_path, ["csv"])
    found = {name: rows(tmp_path / f"{name}.csv") for name in ("labels", "confusions", "lengths", "calibration")}
    cells = [("imdb", "head-only"), ("imdb", "tail-only"), ("imdb", "head+tail"), ("sls_yelp", "head-only")]
    for name, each in found.items():
        assert list(dict.fromkeys((row["task"], row["row"]) for row in each)) == cells, name
    assert {row["label"] for row in found["labels"]} == {"'=bad", "<b>good"}
    mine = [row for row in found["lengths"] if (row["task"], row["row"]) == ("imdb", "head+tail")]
    outcome = np.array([wrong(count, seed) for seed, count in enumerate((40, 44, 36))])
    assert sum(int(row["texts"]) for row in mine) == TEXTS
    for row in mine:
        inside = (int(row["least_pieces"]) <= LENGTHS) & (int(row["most_pieces"]) >= LENGTHS)
        assert int(row["texts"]) == inside.sum()
        assert float(row["error_percent"]) == pytest.approx(100 * outcome[:, inside].mean())
        assert float(row["longer_than_max_length_percent"]) == pytest.approx(100 * (LENGTHS[inside] > 16).mean())
        assert float(row["interval_low_percent"]) <= float(row["error_percent"]) <= float(row["interval_high_percent"])
    (mine_,) = [row for row in found["calibration"] if (row["task"], row["row"]) == ("imdb", "head+tail")]
    assert (mine_["seeds"], mine_["texts"], mine_["counted"]) == ("3", "400", "texts")
    assert float(mine_["right_percent"]) == pytest.approx(100 - 100 * outcome.mean())
    lonely = [row for row in found["lengths"] if row["task"] == "sls_yelp"]
    assert {row["interval_low_percent"] for row in lonely} == {""}, "one seed: no interval is invented"


def test_the_same_predictions_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in "ab":
        reports.write([run], tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_probabilities_that_are_none_are_refused_by_the_name_of_their_file(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    enrich(folder)
    path = folder / "imdb" / "predictions" / "f06-test.parquet"
    table = pq.read_table(path)
    broken = table["probabilities"].to_pylist()
    broken[3][0] = math.nan
    pq.write_table(table.set_column(3, "probabilities", pa.array(broken, pa.list_(pa.float32()))), path)
    page = reports.write([folder], tmp_path / "out").page
    assert "IMDb, head+tail: f06-test.parquet: some probabilities are no numbers from 0 to 1" in text_of(page)
    assert [row["row"] for row in rows(tmp_path / "out" / "calibration.csv") if row["task"] == "imdb"] == ["head-only", "tail-only"]
    assert "head+tail" in {row["row"] for row in rows(tmp_path / "out" / "labels.csv")}, "what is sound is told"


def test_predictions_from_before_lengths_were_kept(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    text = text_of(reports.write([folder], tmp_path / "out").page)
    assert "The test predictions are old and lack the lengths of the texts." in text
    assert "The test predictions contain no usable probabilities." in text
    assert rows(tmp_path / "out" / "lengths.csv") == rows(tmp_path / "out" / "calibration.csv") == []
    assert len(rows(tmp_path / "out" / "labels.csv")) == 8
    enrich(folder)
    path = folder / "imdb" / "predictions" / "f07-test.parquet"
    pq.write_table(pq.read_table(path).drop(["pieces"]), path)
    found = sides.of_cell(found_ledger := ledger(folder), found_ledger.cells[2])
    assert found.pieces is None, "of some seeds only"
    assert found.calibration is not None


@pytest.mark.parametrize("kind", [several, single])
def test_the_page_of_a_study_has_chosen_reference_and_bag_of_words(tmp_path: Path, kind: Any) -> None:
    has, good = kind(n=120, wrong=0.1)
    _, bad = kind(n=120, wrong=0.3, seed=5)
    folder = make(tmp_path / "run", NASTY, has, {"papers' setting": bad, "good": good}, "micro_f1", baseline=bad[0])
    enrich(folder)
    heat(folder, "good", 2.5)
    page = reports.write([folder], tmp_path / "out").page
    text = text_of(page)
    assert "good error % papers' setting error % bag of words error % good minus papers' setting, points" in text
    assert "papers' setting F1 % bag of words F1 %" in text
    assert "good 3 " in text
    Outline(page.read_text(encoding="utf-8"))
    found = rows(tmp_path / "out" / "calibration.csv")
    assert [row["setting_label"] for row in found] == ["good", "papers' setting"]
    assert {row["counted"] for row in found} == {"decisions" if kind is several else "texts"}
    assert [row["temperature"] for row in found] == ["2.5", ""], "the other's is not recorded"
    assert found[0]["scaled_ece_percent"] not in ("", found[0]["ece_percent"])
    assert found[1]["scaled_ece_percent"] == found[1]["scaled_log_loss"] == ""
    assert "temperature scaled ECE % scaled log loss good 3 " in text
    assert {"reliability-chosen.svg", "lengths-chosen.svg"} <= {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    told = study_page.compared_details(Finals(load(folder)))
    assert told is not None
    assert details.facts([told.first])[-1] in details.FACTS
    doubtful = details.facts([replace(told.first, temperatures=(2.5, details.MOST))])[-1]
    assert doubtful == "1 of 2 temperatures of good lie at the end of the range (0.1 to 10): not determined by validation."
    assert (details.LEAST, details.MOST) == (temperature.LEAST, temperature.MOST)
    wrong_ = np.array([(each != has).any(axis=1) if has.ndim > 1 else each != has for each in good])
    for part in told.first.lengths:
        inside = (LENGTHS[:120] >= part.low) & (LENGTHS[:120] <= part.high)
        assert part.estimate.value == pytest.approx(100 * wrong_[:, inside].mean())


def test_settings_on_other_texts_do_not_stand_beside(tmp_path: Path) -> None:
    has, good = single(n=60)
    runs = []
    for name, truth in (("a", has), ("b", 1 - np.minimum(has, 1))):
        runs.append(load(make(tmp_path / name, ["x", "y", "z"], truth, {"good": good}, "error_rate", baseline=good[0])))
        enrich(tmp_path / name)
    one, other = (study_page.compared_details(Finals(each)) for each in runs)
    assert one is not None
    assert other is not None
    found = [sides.Side("x", seeds=(each.predictions("f00"),)) for each in runs]  # type: ignore[arg-type]
    made = details.compare_details("", "k", found)
    assert made is not None
    assert [side.label for side in made.sides] == ["x"]


@pytest.mark.parametrize(
    ("params", "config", "said"),
    [
        ({"finetune.max_length": 32}, {}, "cuts at 32"),
        ({"finetune.truncation": "hier-max"}, {"max_length": 64}, "reads longer texts in fractions of 64"),
        ({}, {"max_length": 64, "truncation": "tail"}, "cuts at 64"),
        ({"tuned.max_length": 9}, {"name": "tuned", "max_length": 64}, "cuts at 9"),
        ({}, {"max_length": "many"}, None),
        ({}, {}, None),
    ],
)
def test_where_texts_are_cut(params: dict[str, Any], config: dict[str, Any], said: str | None) -> None:
    cut = sides._cut(params, {"recipe": [{"pretrain": {"max_length": 7}}, {"finetune": config}]})
    assert (cut.name if cut else None) == said
    for broken in ({"recipe": "BERT"}, {"recipe": [None, {"finetune": 3}]}, {}):
        assert sides._cut({}, broken) is None


def test_sides_without_a_claim_are_the_best_and_the_first(tmp_path: Path) -> None:
    plain = {name: value for name, value in TABLE2.items() if name != "claims"}
    found = ledger(build(tmp_path / "a", plain, table2_outcomes()))
    assert [cell.row for cell in claims.sides(found, "imdb")] == ["head+tail", "head-only"]
    assert [cell.row for cell in claims.sides(found, "sls_yelp")] == ["head-only"]
    best = plain | {"claims": [{"says": "?", "better": {"row": "none"}, "worse": {"row": "head-only"}}, TABLE2["claims"][2]]}
    found = ledger(build(tmp_path / "b", best, table2_outcomes()))
    assert [cell.row for cell in claims.sides(found, "imdb")] == ["head+tail", "tail-only"], "the best of the others"
    found = ledger(build(tmp_path / "c", TABLE2, {}))
    assert claims.sides(found, "imdb") == []
    assert ablation_page.compared_details(found) == ablation_page.cell_details(found) == []


def test_hundreds_of_cells_make_a_light_page(tmp_path: Path) -> None:
    settings = [{"row": f"setting {i}", "set": {"finetune.xi": i / 1000}} for i in range(300)]
    outcomes: Any = {("imdb", each["row"]): [wrong(20 + i % 9, i, texts=60)] for i, each in enumerate(settings)}
    about = {"name": "many", "title": "Many", "tasks": {"imdb": {}}, "settings": settings, "seeds": 1}
    folder = build(tmp_path / "run", about, outcomes)
    enrich(folder)
    page = reports.write([folder], tmp_path / "out").page
    assert page.stat().st_size < 1_000_000
    assert len(rows(tmp_path / "out" / "calibration.csv")) == 300
