"""Read the evaluations on validation, most of a large run's records, as columns: faster and smaller than rows.

Lines that hold plain fields only go through pyarrow's reader, block by block. Lines that it refuses are read one by one as
`record.py` does, so that both ways give the same records and the same faults. Unknown fields are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import record, record_fields
from analysis.records.metric import Metric
from analysis.records.predictions import Array

Row = dict[str, Any]
FROM = 16_000_000
"""Size of a records file, in bytes, from which on it is read as columns: about 25,000 evaluations."""
OUR_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
BLOCK = 16_000_000
"""Bytes read at a time."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Evaluations on validation as a pyarrow table, strings dictionary-encoded; null where a record lacks a field."""

    table: Any
    lines: Array
    """[n]: line number of each evaluation in the file."""
    row_lines: list[int]
    """Line number of each of the other records, which are read as rows."""

    def values(self, name: str) -> Array:
        """Return one field as an array [n]: numbers with NaN, other values as objects with None, where it is missing."""
        return _values(self.table.column(name))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield (line number, record) one by one."""
        for start in range(0, len(self.lines), 10_000):
            part = self.table.slice(start, 10_000).to_pylist()
            for line, row in zip(self.lines[start : start + 10_000].tolist(), part, strict=True):
                yield line, {name: value for name, value in row.items() if value is not None}

    def distinct(self, names: Sequence[str]) -> dict[tuple[Any, ...], int]:
        """Return {values of these fields: number of the last line that has them}."""
        import pandas as pd

        kept = pd.DataFrame({name: self.values(name) for name in names}).drop_duplicates(keep="last")
        return {
            tuple(None if value != value else value for value in values): int(self.lines[at])
            for at, values in zip(kept.index, kept.itertuples(index=False), strict=True)
        }

    def by_trial(self, metric: Metric) -> dict[str, TrialEvaluations]:
        """Return {trial: its evaluations in the order of the records}."""
        import pandas as pd

        names, stage, value = self.values("trial"), self.values("stage"), self.values(metric.field)
        score = metric.percent(value)
        counts = ~np.isnan(score) & np.array([kind in (None, "finetune") for kind in stage.tolist()], dtype=bool)
        fields = {name: self.values(name) for name in ("setting", "seed", "epoch", "tokens", "wall_s")}
        columns = {"lines": self.lines, "score": score, "counts": counts, "error": self.values("error_rate_percent"), **fields}
        phase, evaluations = self.values("phase"), {}
        codes, known = pd.factorize(names)  # -1 for none
        order = np.argsort(codes, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            if len(part) and codes[part[0]] >= 0 and (name := known[codes[part[0]]]):
                evaluations[name] = TrialEvaluations(phase[part[0]], **{field: values[part] for field, values in columns.items()})
        return evaluations

    def ends(self) -> Iterator[tuple[Any, str]]:
        """Yield (session, time of writing) of the first and last evaluation of a session; of all if a time has another format."""
        import pyarrow as pa
        import pyarrow.compute as pc

        times = self.table.column("utc").cast(pa.string()).drop_null()
        if pc.all(pc.match_substring_regex(times, OUR_TIME)).as_py() and len(times) == len(self.table):
            sessions = pa.table({"session": self.table.column("session"), "utc": times}).group_by("session")
            for row in sessions.aggregate([("utc", "min"), ("utc", "max")]).to_pylist():
                yield from ((row["session"], row[name]) for name in ("utc_min", "utc_max"))
        else:
            yield from ((row.get("session"), row["utc"]) for _, row in self.rows() if row.get("utc"))


@dataclass
class TrialEvaluations:
    """The evaluations of a trial as arrays [n], in the order of the records; NaN or None where a value is missing."""

    phase: str | None
    """Phase of the first evaluation."""
    lines: Array
    score: Array
    counts: Array
    """Whether an evaluation is of fine-tuning and has a score."""
    error: Array
    setting: Array
    seed: Array
    epoch: Array
    tokens: Array
    wall_s: Array
    taken: int = 0
    """How many evaluations have been processed so far."""


def read(path: Path) -> tuple[list[Row], list[str], Columns | None]:
    """Return (records kept as rows, problems, evaluations kept as columns): together what `record.read` returns."""
    rows: list[tuple[int, Row]] = []
    problems: list[str] = []
    tables: list[Any] = []
    lines: list[int] = []
    for block in _blocks(path):
        plain = list(map(_plain, block.values()))
        table = _table(list(compress(block.values(), plain)))
        if table is None:
            plain = [False] * len(block)
        else:
            tables.append(table)
            lines += compress(block, plain)
        for number, parsed in record.parsed(compress(block.items(), map(not_, plain))):
            if isinstance(parsed, str):
                problems.append(parsed)
            else:
                rows.append((number, parsed))
    rows, tables, at = _counting(rows, tables, np.array(lines, dtype=np.int64))
    rows, columns = _first_of_each(rows, tables, at)
    return [row for _, row in rows], problems, columns


def _blocks(path: Path) -> Iterator[dict[int, bytes]]:
    """Yield blocks of lines by line number, without empty lines."""
    number = 1
    with open(path, "rb") as file:
        while lines := file.readlines(BLOCK):
            yield {at: line for at, line in enumerate(lines, number) if not line.isspace()}
            number += len(lines)


def _plain(line: bytes) -> bool:
    """Whether a line is an evaluation on validation without lists, nested objects, escapes and characters beyond ASCII."""
    return (
        b'"split":"validation"' in line
        and b'"event":"evaluation"' in line
        and line.find(b"{", 1) < 0
        and b"[" not in line
        and b"\\" not in line
        and line.isascii()
    )


def _table(lines: Sequence[bytes]) -> Any:
    """Parse lines into a table; None if pyarrow refuses a line or a number is not finite."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.json as pj

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    plain = {name: types[field.type] for name, field in record_fields.fields("evaluation").items() if field.type in types}
    if not lines:
        return None
    parsing = pj.ParseOptions(explicit_schema=pa.schema(plain.items()), unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(pa.BufferReader(b"".join(lines)), parse_options=parsing)
    except pa.ArrowInvalid:
        return None
    numbers = [column for column in table.columns if pa.types.is_floating(column.type)]
    if len(table) != len(lines) or not all(pc.all(pc.is_finite(column)).as_py() is not False for column in numbers):
        return None
    texts = [column.dictionary_encode() if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(texts, names=table.column_names)


def _values(column: Any) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return np.asarray(column.to_numpy(), dtype=float)
    whole = column.unify_dictionaries().combine_chunks()
    texts = np.array([*whole.dictionary.to_pylist(), None], dtype=object)
    return np.asarray(texts[pc.fill_null(whole.indices, -1).to_numpy()])


def _counting(rows: list[tuple[int, Row]], tables: list[Any], lines: Array) -> tuple[list[tuple[int, Row]], list[Any], Array]:
    """Keep the records that still count, of rows and of tables: see `record.counting`."""
    import pyarrow as pa

    last = max((line for line, row in rows if record.starts_again(row)), default=0)
    if not last:
        return rows, tables, lines
    late = lines > last
    kept = [pa.concat_tables(tables).filter(pa.array(late))] if late.any() else []
    return [(line, row) for line, row in rows if line >= last or row["event"] in record.LASTING], kept, lines[late]


def _first_of_each(rows: list[tuple[int, Row]], tables: list[Any], lines: Array) -> tuple[list[tuple[int, Row]], Columns | None]:
    """Keep the first of several records of one evaluation."""
    import pandas as pd
    import pyarrow as pa

    if not tables:
        return rows, None
    scored = [(line, row) for line, row in rows if row["event"] == "evaluation"]
    table = pa.concat_tables(tables)
    where = np.concatenate([lines, np.array([line for line, _ in scored], dtype=np.int64)])
    order = np.argsort(where)
    keys = {}
    for name in record_fields.IDENTITY:
        mine = _values(table.column(name))
        own = np.array([row.get(name) for _, row in scored], dtype=mine.dtype)
        keys[name] = np.concatenate([mine, own])[order]
    again = np.zeros(len(where), dtype=bool)
    again[order] = pd.DataFrame(keys).duplicated().to_numpy()
    fresh, dropped = ~again[: len(lines)], set(where[len(lines) :][again[len(lines) :]].tolist())
    kept = [(line, row) for line, row in rows if line not in dropped]
    return kept, Columns(table.filter(pa.array(fresh)), lines[fresh], [line for line, _ in kept])
