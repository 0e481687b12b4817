"""The papers' numbers: as printed, looked up by name; texts that are no numbers."""

from __future__ import annotations

import csv

import pytest

from analysis.results import published
from analysis.results.published import Number, find, load, table


@pytest.mark.parametrize("paper", published.PAPERS)
def test_every_line_of_a_csv_is_there(paper: str) -> None:
    with (published.FOLDER / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = load(paper)
    assert [(n.table, n.row, n.column, n.text) for n in numbers] == [(r["table"], r["row"], r["column"], r["value"]) for r in rows]
    assert all(n.source for n in numbers)


@pytest.mark.parametrize(
    ("text", "metric", "value", "percent", "approximate", "shown"),
    [
        ("5.63", "test error rate %", 5.63, 5.63, False, "5.63"),
        ("~0.003", "error fraction near iteration 5000", 0.003, 0.3, True, "~0.3"),
        ("~0.50 (diverges at ~500 iterations)", "error fraction near iteration 5000", 0.5, 50.0, True, "~50.0"),
        ("47GB", "cost", None, None, False, "47GB"),
        ("0.2K", "cost", None, None, False, "0.2K"),
        ("Sentiment", "label", None, None, False, "Sentiment"),
        ("", "label", None, None, False, ""),
    ],
)
def test_text_and_number(text: str, metric: str, value: float | None, percent: float | None, approximate: bool, shown: str) -> None:
    number = Number("p", "t", "r", "c", metric, text, None, "s")
    assert number.value == value
    assert number.percent == pytest.approx(percent)
    assert number.approximate == approximate
    assert number.shown == shown


def test_a_spread_stands_beside_its_number() -> None:
    found = find(table("gururangan2020", ["Table 5"]), "DAPT", ["CHEMPROT"])
    assert found is not None
    assert found.shown == "84.2 ± 0.2"


def test_rows_and_columns_either_way_round() -> None:
    numbers = table("gururangan2020", ["Table 5"])  # its rows are tasks
    assert find(numbers, "TAPT", ["imdb"]) == find(numbers, "IMDB", ["TAPT"])
    assert find(numbers, "TAPT", ["imdb"]) is not None


def test_a_table_about_one_task_needs_no_task() -> None:
    found = find(table("sun2019", ["Figure 3"]), "100K further pre-training steps", ["IMDb"])
    assert found is not None
    assert found.value == 4.37
    dev = find(table("sun2019", ["Figure 2"]), "lr=4e-4", ["IMDb"])
    assert dev is not None
    assert (dev.column, dev.percent) == ("dev", 50.0)


def test_a_task_that_the_row_lacks_has_no_number() -> None:
    numbers = table("sun2019", ["Table 6"])
    assert find(numbers, "BERT-CDPT-FiT", ["Sogou"]) is None
    assert find(numbers, "HAN (Yang 2016)", ["IMDb"]) is None  # it has one number only, of Yahoo
    assert find(numbers, "no such row", ["IMDb"]) is None


def test_unknown_papers_and_tables_are_refused_with_the_near_miss() -> None:
    with pytest.raises(KeyError, match="did you mean 'sun2019'"):
        load("sun2018")
    with pytest.raises(KeyError, match="did you mean 'Table 2'"):
        table("sun2019", ["Table2"])
