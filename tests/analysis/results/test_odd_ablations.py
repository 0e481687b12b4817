"""Damaged or edited `ablation.yaml` and records: a message or a report, never a traceback."""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from analysis.pages import ablation_page
from analysis.results.claims import verdicts
from analysis.results.read_ablation import ledger
from analysis.tables import forms
from analysis.tables.published_layout import layout
from study.review import status
from study.review.trace import sources
from tests.analysis.ablations import TABLE2, build, table2_outcomes, wrong
from trainables.settings.errors import ConfigError

X = {"layout": "curve", "x": "finetune.truncation"}
ONCE = (Phase.explicit, Phase.generate)  # to make a failing example smaller would take minutes
SHAPES: tuple[dict[str, Any], ...] = ({}, {"layout": "curve"}, X, {"statistics": True}, {"average": "head-only"})
NAMES = some.sampled_from(["imdb", "head-only", "Table 2", "../x", "\x1b[31m", "curve"])
NUMBERS = some.integers() | some.floats() | some.just(10**400)
SCALARS = some.none() | some.booleans() | NUMBERS | NAMES | some.text(max_size=4) | some.just(datetime.date(2026, 1, 2))
FIELDS = some.sampled_from(["row", "column", "folder", "task", "paper", "table", "target", "published", "says", "set"])
JUNK = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(FIELDS | some.integers() | some.none(), inner, max_size=3),
    max_leaves=4,
)


FEW = {("imdb", row): [wrong(8, seed, 4, 30) for seed in range(2)] for row in ("head-only", "head+tail")}
FEW["imdb", "tail-only"] = ["diverged"]
BRIEF = TABLE2 | {"claims": TABLE2["claims"][:2]}  # the third draws two thousand times


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("odd") / "run", BRIEF, FEW)


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of plain data itself and of every value in it."""
    yield at
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*at, key))


def put(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of plain data with another value at a path."""
    if not place:
        return value
    data = copy.deepcopy(data)
    holder = data
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return data


def read_all(folder: Path) -> None:
    """Write all reports of a run folder except figures. Raises their exceptions, except for messages to the user."""
    for use in (status.show, sources):
        with contextlib.suppress(ConfigError):
            use(folder)
    try:
        found = ledger(folder)
    except ValueError:  # that it says why is tested below
        return
    table, judged = layout(found), verdicts(found)
    for make in (forms.text, forms.markdown, forms.latex, forms.as_json):
        assert make(found, table, judged)
    assert forms.csv(found, table)
    assert forms.provenance_csv(found)
    assert ablation_page.page(found, table, judged, [], ablation_page.cell_details(found), ablation_page.compared_details(found))


@settings(max_examples=30, phases=ONCE, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=some.data(), shape=some.sampled_from(SHAPES))
def test_an_ablation_of_anothers_hand(run: Path, data: some.DataObject, shape: dict[str, Any]) -> None:
    about = BRIEF | shape | {"studies": [{"folder": task, "task": task, "settings": [0, 1, 2]} for task in TABLE2["tasks"]]}
    for _ in range(data.draw(some.integers(1, 3))):
        about = put(about, data.draw(some.sampled_from(list(places(about)))), data.draw(JUNK))
    (run / "ablation.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    read_all(run)


@pytest.mark.parametrize(
    "change",
    [
        {"claims": 3},
        {"claims": {"says": 1}},
        {"studies": 3},
        {"studies": [3, {"folder": ["x"]}, {"folder": "a\0b"}]},
        {"name": None},
    ],
)
def test_wrong_types_that_once_broke_it(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    about = yaml.safe_load((folder / "ablation.yaml").read_text()) | change
    (folder / "ablation.yaml").write_text(yaml.safe_dump(about))
    read_all(folder)


@pytest.mark.parametrize("text", ["", "3", "[1]", "a: b: c", "\x00", "[" * 1200, "a: !!python/name:os.system"])
def test_a_file_that_is_no_ablation_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.yaml").write_text(text)
    for use in (status.show, sources, ledger):
        with pytest.raises(ValueError, match=r"ablation\.yaml"):
            use(tmp_path)


VALUES = SCALARS.filter(lambda value: not isinstance(value, datetime.date)) | some.sampled_from(
    ["complete", "diverged", "test", "validation", "f00", [], {}, ["a"], {"a": 1}, [None]]
)
LINES = some.sampled_from([b"\x00\xff\xfe\n", b"[]\n", b'{"event":"trial"}\n', b'{"event":"evaluation","split":"test"}\n', b"\r\n"])


@settings(max_examples=30, phases=ONCE, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=some.data(), shape=some.sampled_from(SHAPES[:3]))
def test_records_of_anothers_hand(run: Path, data: some.DataObject, shape: dict[str, Any]) -> None:
    if not (run.parent / "whole").exists():
        build(run.parent / "whole", BRIEF, FEW)
    lines = (run.parent / "whole" / "imdb" / "records.jsonl").read_bytes().splitlines(keepends=True)
    about = yaml.safe_load((run.parent / "whole" / "ablation.yaml").read_text()) | shape
    (run / "ablation.yaml").write_text(yaml.safe_dump(about))
    for _ in range(data.draw(some.integers(1, 6))):
        index = data.draw(some.integers(0, len(lines) - 1))
        try:
            row = json.loads(lines[index])
            row[data.draw(some.sampled_from([*sorted(row), "label", "params", "metric", "thresholds", "versions"]))] = data.draw(
                VALUES
            )
            lines[index] = json.dumps(row).encode() + b"\n"
        except (ValueError, TypeError):
            lines[index] = data.draw(LINES)
    whole = b"".join(lines)
    (run / "imdb" / "records.jsonl").write_bytes(whole[: data.draw(some.integers(len(whole) // 2, len(whole)))])
    read_all(run)


def test_numbers_that_nothing_can_hold_cost_their_lines_only(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    path = folder / "imdb" / "records.jsonl"
    lines = path.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"split":"test"' in line)
    row = json.loads(lines[place])
    lines[place] = json.dumps(row | {"error_rate_percent": 10**400})
    path.write_text("\n".join(lines) + "\n" + "x" * 3_000_000 + "\n")
    found = ledger(folder)
    assert found.cells[0].scores == [19.0, 21.0]
    (said,) = [problem for problem in found.problems if "could not be used" in problem]
    assert said.startswith(
        f"imdb: 2 line(s) of the records could not be used (line {place + 1}: evaluation.error_rate_percent: 1000"
    )
    assert len(said) < 500
