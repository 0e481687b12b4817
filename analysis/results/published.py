"""The numbers printed in the papers, one csv file for each paper: `published/PAPER.csv`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "published"
PAPERS = {
    "sun2019": "Sun et al. 2019, How to Fine-Tune BERT for Text Classification?, arXiv:1905.05583",
    "gururangan2020": "Gururangan et al. 2020, Don't Stop Pretraining, arXiv:2004.10964",
    "gu2020": "Gu et al. 2020, Train No Evil, arXiv:2004.09733",
}
UNSEEN = ("test", "dev")
"""Columns that hold a score in tables whose columns are not tasks; the first one present counts."""


@dataclass(frozen=True)
class Number:
    """One cell of a published table. `text` is the printed text, which need not be a number."""

    paper: str
    table: str
    row: str
    column: str
    metric: str
    text: str
    sd: float | None
    source: str

    @property
    def value(self) -> float | None:
        """The number in the text, as in `5.63` and `~0.50 (diverges)`; None without one, as in `47GB`."""
        match = re.fullmatch(r"~?\s*(-?\d+(?:\.\d+)?)(?:\s*\(.*\))?", self.text.strip())
        return float(match[1]) if match else None

    @property
    def approximate(self) -> bool:
        """Whether it is approximate: read off a figure, or printed as such."""
        return self.text.lstrip().startswith("~")

    @property
    def percent(self) -> float | None:
        """The value in percent, also if the paper prints a fraction."""
        return self.value if self.value is None or "fraction" not in self.metric else 100 * self.value

    @property
    def shown(self) -> str:
        """Text to show beside our number: in percent, with `~` if approximate; the printed text if it is not a number."""
        if self.percent is None:
            return self.text
        digits = len(self.text.partition(".")[2]) if "fraction" not in self.metric else 1
        number = self.text if "fraction" not in self.metric else f"{'~' * self.approximate}{self.percent:.{digits}f}"
        return number if self.sd is None else f"{number} ± {self.sd:g}"


def load(paper: str) -> tuple[Number, ...]:
    """Return all numbers of a paper. Raises KeyError with the near miss for an unknown paper."""
    path = FOLDER / f"{paper}.csv"
    if paper not in PAPERS or not path.is_file():
        raise KeyError(f"no published numbers of {paper!r}{near(paper, list(PAPERS))}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(_number(paper, row) for row in rows)


def _number(paper: str, row: dict[str, str]) -> Number:
    sd = float(row["sd"]) if row.get("sd") else None
    return Number(paper, row["table"], row["row"], row["column"], row["metric"], row["value"], sd, row["source"])


def table(paper: str, names: Sequence[str]) -> tuple[Number, ...]:
    """Return the numbers of some tables of a paper, `Table 2` or `Figure 3`. Raises KeyError for an unknown paper or table."""
    numbers = load(paper)
    known = list(dict.fromkeys(number.table for number in numbers))
    for name in names:
        if not any(_same(name, other) for other in known):
            raise KeyError(f"{paper} has no published {name!r}{near(name, known)}")
    return tuple(number for number in numbers if any(_same(number.table, name) for name in names))


def find(numbers: Sequence[Number], row: str, columns: Sequence[str]) -> Number | None:
    """Return the number of a row in the first of these columns that the table has; the table may also be transposed.

    If the table has none of the columns (it is about one task only), return the row's only number, or its test or dev number.
    """
    for column in columns:
        for number in numbers:
            if (_same(number.row, row) and _same(number.column, column)) or (
                _same(number.row, column) and _same(number.column, row)
            ):
                return number
    if any(_same(name, column) for number in numbers for name in (number.row, number.column) for column in columns):
        return None
    own = [number for number in numbers if _same(number.row, row)]
    scores = [number for name in UNSEEN for number in own if _same(number.column, name)]
    return own[0] if len(own) == 1 else scores[0] if scores else None


def near(name: str, known: Sequence[str]) -> str:
    """End of an error message: `; did you mean 'Table 2'?`, or the known names."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"


def _same(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
