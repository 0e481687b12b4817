"""Show the progress of a study from its records: while it runs, from another terminal, or after it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records import record
from analysis.records.metric import Metric, objective, of_run
from analysis.results.ledger import listed
from analysis.results.read_ablation import FILE, folder_of, is_ablation
from analysis.text.numbers import whole_seconds
from analysis.text.plain import plain
from study.definition.space import describe
from study.run import inputs
from study.run.lock import running
from study.run.screen import number
from study.run.scribe import OVER, Row, ranking, trials
from trainables.settings.errors import ConfigError
from trainables.settings.plain_yaml import read_yaml


def show(run_dir: Path) -> str:
    """Format state, progress, best trial and a line per trial; for an ablation its studies. Raises ConfigError without a run."""
    if is_ablation(run_dir):
        ablation = read_yaml(run_dir / FILE)
        if not isinstance(ablation, dict):
            raise ConfigError([f"{run_dir / FILE}: is not an ablation"])
        return "\n".join(_studies(run_dir, ablation))
    rows, problems = record.read(run_dir / "records.jsonl")
    if not rows:
        raise ConfigError([f"{run_dir}: no run folder (there are no records in it)"])
    lines = [_state(run_dir, rows), _progress(rows), *_best(rows), *_inputs(run_dir, rows), "", _head(of_run(rows))]
    lines += [_line(row, rows) for phase in ("search", "final") for row in trials(rows, phase).values()]
    lines += [f"damaged record, {problem}" for problem in problems]
    return "\n".join(lines)


def _inputs(run_dir: Path, rows: Sequence[Row]) -> Iterator[str]:
    """Yield lines on the inputs: changes that were accepted, and changes since then."""
    yield from (record.accepted(row) for row in rows if record.starts_again(row))
    yield from (f"has changed since: {line}" for line in inputs.since(run_dir, rows))


def _studies(run_dir: Path, ablation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the state of an ablation, the process that runs it, and the state of its studies."""
    owner = running(run_dir)
    who = "not running" if owner is None else f"running, process {owner.pid} on {owner.host}"
    yield f"{plain(ablation.get('name'), 60)} at scale {plain(ablation.get('scale'), 40)}: {who}"
    for part in listed(ablation.get("studies")):
        name = folder_of(part)
        if name is None:
            yield f"  {plain(part, 80)}: no study in this folder"
            continue
        folder = run_dir / name
        rows, problems = record.read(folder / "records.jsonl")
        yield f"  {_state(folder, rows)}; {_progress(rows)}" if rows else f"  {plain(name, 60)}: not begun"
        yield from (f"    {line}" for line in _inputs(folder, rows))
        yield from (f"  damaged record, {problem}" for problem in problems)


def _state(run_dir: Path, rows: Sequence[Row]) -> str:
    events = [row for row in rows if row["event"] == "study"]
    name = rows[0].get("study", run_dir.name)
    last = events[-1]["status"] if events else "started"
    owner = running(run_dir)
    if owner is not None:
        return f"{name}: running, process {owner.pid} on {owner.host}"
    if last in ("started", "resumed"):
        last = "was killed; run the same command again to resume"
    spent = sum(row.get("seconds") or 0 for row in events)
    text = f"{name}: {last}" + (
        f" after {whole_seconds(spent)}" if last in ("finished", "interrupted", "stopped") and spent else ""
    )
    return f"{text}: {plain(events[-1].get('reason'), 300)}; run the same command again to resume" if last == "stopped" else text


def _progress(rows: Sequence[Row]) -> str:
    planned = next((row.get("trials") for row in reversed(rows) if row["event"] == "plan"), None)
    search, finals = trials(rows, "search"), trials(rows, "final")
    tested = {row.get("trial") for row in rows if row["event"] == "evaluation" and row.get("split") == "test"}
    over = [row for row in search.values() if row["status"] in OVER]
    by_status = {status: sum(row["status"] == status for row in over) for status in OVER}
    kinds = ", ".join(f"{count} {status}" for status, count in by_status.items() if count)
    text = f"search {len(over)}/{planned if planned is not None else '?'}" + (f" ({kinds})" if kinds else "")
    if finals:
        done = sum(row["status"] in OVER for row in finals.values())
        text += f", finals {done}/{len(finals)}, tested {len(tested)}"
    return text


def _best(rows: Sequence[Row]) -> list[str]:
    metric = of_run(rows)
    return [
        f"best so far: {row['trial']}, {metric.turned(loss):.2f} % validation {metric.label}, {describe(row['params'])}"
        for row in ranking(rows)[:1]
        if (loss := objective(row)) is not None
    ]


def _head(metric: Metric) -> str:
    return f"{'trial':<6}{'seed':>4} {'epoch':>5} {metric.short:>8}  {'state':<10} settings"


def _line(trial: Row, rows: Sequence[Row]) -> str:
    last = _last_validation(trial["trial"], rows)
    epoch, score = number(last.get("epoch"), ".3g"), number(of_run(rows).score(last), ".2f")
    state = "running" if trial["status"] == "started" else trial["status"]
    remark = trial.get("reason") if state in ("diverged", "failed", "unfinished") else describe(trial["params"])
    return f"{trial['trial']:<6}{trial['seed']:>4} {epoch:>5} {score:>8}  {state:<10} {remark}"[:80]


def _last_validation(name: str, rows: Sequence[Row]) -> Mapping[str, Any]:
    validations = [
        row for row in rows if row["event"] == "evaluation" and row.get("trial") == name and row.get("split") == "validation"
    ]
    return max(validations, key=lambda row: row.get("step") or 0, default={})
