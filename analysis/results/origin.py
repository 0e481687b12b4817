"""Where and when the results of a run were computed: time, machine, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from analysis.records.run_folder import Run
from analysis.text.plain import plain


@dataclass(frozen=True)
class Origin:
    """Where and when the results of one run or of several were computed."""

    times: tuple[float, float] | None
    """Of the first and the last record, seconds since 1970; None if unknown."""
    facts: Mapping[str, list[str]]
    """{what: its values, several where sessions differ, in their order}"""

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(what, its values) for a page."""
        rows = [(name, ", then ".join(values)) for name, values in self.facts.items() if values]
        return [("computed", period(*self.times)), *rows] if self.times else rows


def origin(run: Run) -> Origin:
    """Return time, machine, devices and versions of a run."""
    found: dict[str, list[str]] = {}
    _add(found, "machine", (row.get("machine") for row in run.of("plan")))
    _add(found, "computed on", (row.get("computes_on") for row in run.of("plan")))
    for name in ("device", "precision"):
        _add(found, name, sorted({value for (value,) in run.distinct(name) if value}))
    if not found["device"]:
        _add(found, "device", (row.get("device") for row in run.of("study")))
    for row in run.of("study"):
        for name, version in (row.get("versions") or {}).items():
            _add(found, plain(name), (version,))
        _add(found, "commit", (_short_commit(row.get("commit")),))
        _add(found, "study digest", (row.get("config_digest"),))
    return Origin(run.times, found)


def merged(origins: Sequence[Origin]) -> Origin:
    """Return the origin of several runs together."""
    found: dict[str, list[str]] = {}
    for each in origins:
        for name, values in each.facts.items():
            _add(found, name, values if name != "study digest" else ())
    times = [each.times for each in origins if each.times]
    return Origin((min(first for first, _ in times), max(last for _, last in times)) if times else None, found)


def period(first: float, last: float) -> str:
    """Format two times in seconds since 1970: `2026-11-27 15:26 to 15:32 UTC`."""
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (first, last))
    return f"{begin} to {end.removeprefix(begin[:11])} UTC" if begin != end else f"{begin} UTC"


def _add(found: dict[str, list[str]], name: str, values: Iterable[Any]) -> None:
    """Append the values that are new."""
    own = found.setdefault(name, [])
    own += dict.fromkeys(text for value in values if value and (text := plain(value, 120)) not in own)


def _short_commit(commit: str | None) -> str | None:
    return commit and commit[:12] + ("+ (with changes)" if commit.endswith("+") else "")
