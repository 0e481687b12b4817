"""Show the progress of a study from its records: while it runs, from another terminal, or after it ended.

`look` returns it as plain data: the JSON of `study status --json`. Its keys are explained in docs/resume-sharing-selection.md.
`show` formats the same data as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records import record
from analysis.records.metric import METRICS, objective, of_run
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

Data = dict[str, Any]
AGAIN = "run the same command again to resume"

# As plain data -------------------------------------------------------------------------------------------------------------------


def look(run_dir: Path) -> Data:
    """Return the progress of a study or an ablation as plain data. Raises ConfigError without a run."""
    if is_ablation(run_dir):
        return _ablation(run_dir)
    rows, problems = record.read(run_dir / "records.jsonl")
    if not rows:
        raise ConfigError([f"{run_dir}: no run folder (there are no records in it)"])
    return _study(run_dir, rows, problems)


def _ablation(run_dir: Path) -> Data:
    ablation = read_yaml(run_dir / FILE)
    if not isinstance(ablation, dict):
        raise ConfigError([f"{run_dir / FILE}: is not an ablation"])
    owner = _owner(run_dir)
    head = {"kind": "ablation", "name": ablation.get("name"), "scale": ablation.get("scale")}
    studies = [_part(run_dir, entry) for entry in listed(ablation.get("studies"))]
    return head | {"state": "running" if owner else "not running", "process": owner, "studies": studies}


def _part(run_dir: Path, entry: Any) -> Data:
    """One study of an ablation; `state` is `unknown` if its entry names no folder."""
    name = folder_of(entry)
    if name is None:
        return {"folder": None, "state": "unknown", "problems": [f"{plain(entry, 80)}: no study in this folder"]}
    rows, problems = record.read(run_dir / name / "records.jsonl")
    return {"folder": name} | (_study(run_dir / name, rows, problems) if rows else {"state": "not begun", "problems": problems})


def _study(run_dir: Path, rows: Sequence[Row], problems: Sequence[str]) -> Data:
    events = [row for row in rows if row["event"] == "study"]
    last, owner, metric = events[-1] if events else {}, _owner(run_dir), of_run(rows)
    state = "running" if owner else last.get("status", "started")
    plans = [row for row in rows if row["event"] == "plan"]
    return {
        "kind": "study",
        "name": rows[0].get("study", run_dir.name),
        "state": "killed" if state in ("started", "resumed") else state,
        "reason": last.get("reason"),
        "process": owner,
        "seconds": sum(row.get("seconds") or 0 for row in events),
        "computes_on": next((row["computes_on"] for row in reversed(plans) if row.get("computes_on")), None),
        "metric": metric.name,
        "search": _counts(trials(rows, "search")) | {"planned": plans[-1].get("trials") if plans else None},
        "finals": _counts(trials(rows, "final")) | {"tested": len(_tested(rows))},
        "best": next((_best(row, metric.turned(loss)) for row in ranking(rows)[:1] if (loss := objective(row)) is not None), None),
        "trials": [_trial(row, rows) for phase in ("search", "final") for row in trials(rows, phase).values()],
        "accepted_changes": [record.accepted(row) for row in rows if record.starts_again(row)],
        "changed_since": inputs.since(run_dir, rows),
        "problems": list(problems),
    }


def _owner(run_dir: Path) -> Data | None:
    """The process that runs a folder now."""
    owner = running(run_dir)
    return None if owner is None else {"pid": owner.pid, "host": owner.host}


def _counts(of_phase: Mapping[str, Row]) -> Data:
    by_status = {status: sum(row["status"] == status for row in of_phase.values()) for status in OVER}
    return {"begun": len(of_phase), "over": sum(by_status.values())} | by_status


def _tested(rows: Sequence[Row]) -> set[str]:
    return {row.get("trial") for row in rows if row["event"] == "evaluation" and row.get("split") == "test"}


def _best(trial: Row, score_percent: float) -> Data:
    return {"trial": trial["trial"], "score_percent": score_percent, "params": trial["params"]}


def _trial(trial: Row, rows: Sequence[Row]) -> Data:
    last = _last_validation(trial["trial"], rows)
    fields = {name: trial.get(name) for name in ("trial", "phase", "seed", "params", "reason")}
    state = "running" if trial["status"] == "started" else trial["status"]
    return fields | {"state": state, "epoch": last.get("epoch"), "score_percent": of_run(rows).score(last)}


def _last_validation(name: str, rows: Sequence[Row]) -> Mapping[str, Any]:
    validations = [
        row for row in rows if row["event"] == "evaluation" and row.get("trial") == name and row.get("split") == "validation"
    ]
    return max(validations, key=lambda row: row.get("step") or 0, default={})


# As text -------------------------------------------------------------------------------------------------------------------------


def show(run_dir: Path) -> str:
    """Format state, progress, best trial and a line per trial; for an ablation its studies. Raises ConfigError without a run."""
    found = look(run_dir)
    if found["kind"] == "ablation":
        return "\n".join(_ablation_lines(found))
    metric = METRICS[found["metric"]]
    lines = [_state(found), _progress(found)]
    lines += [f"computes on {plain(found['computes_on'], 200)}"] if found["computes_on"] else []
    if best := found["best"]:
        score = f"{best['score_percent']:.2f} % validation {metric.label}"
        lines.append(f"best so far: {best['trial']}, {score}, {describe(best['params'])}")
    lines += [*_inputs(found), "", f"{'trial':<6}{'seed':>4} {'epoch':>5} {metric.short:>8}  {'state':<10} settings"]
    return "\n".join([*lines, *map(_line, found["trials"]), *_damages(found)])


def _ablation_lines(found: Data) -> Iterator[str]:
    """Yield the state of an ablation, the process that runs it, and the state of its studies."""
    yield f"{plain(found['name'], 60)} at scale {plain(found['scale'], 40)}: {_runs(found) or 'not running'}"
    for part in found["studies"]:
        if part["folder"] is None:
            yield from (f"  {problem}" for problem in part["problems"])
            continue
        begun = part["state"] != "not begun"
        yield f"  {_state(part)}; {_progress(part)}" if begun else f"  {plain(part['folder'], 60)}: not begun"
        yield from (f"    {line}" for line in (_inputs(part) if begun else ()))
        yield from (f"  {line}" for line in _damages(part))


def _runs(found: Data) -> str:
    return f"running, process {found['process']['pid']} on {found['process']['host']}" if found["process"] else ""


def _state(found: Data) -> str:
    name, state, spent = found["name"], found["state"], found["seconds"]
    if text := _runs(found):
        return f"{name}: {text}"
    if state == "killed":
        return f"{name}: was killed; {AGAIN}"
    text = f"{name}: {state}"
    text += f" after {whole_seconds(spent)}" if state in ("finished", "interrupted", "stopped") and spent else ""
    return f"{text}: {plain(found['reason'], 300)}; {AGAIN}" if state == "stopped" else text


def _progress(found: Data) -> str:
    search, finals = found["search"], found["finals"]
    kinds = ", ".join(f"{search[status]} {status}" for status in OVER if search[status])
    text = f"search {search['over']}/{'?' if search['planned'] is None else search['planned']}" + (f" ({kinds})" if kinds else "")
    return text + (f", finals {finals['over']}/{finals['begun']}, tested {finals['tested']}" if finals["begun"] else "")


def _inputs(found: Data) -> Iterator[str]:
    """Yield lines on the inputs: changes that were accepted, and changes since then."""
    yield from found["accepted_changes"]
    yield from (f"has changed since: {line}" for line in found["changed_since"])


def _line(trial: Data) -> str:
    epoch, score = number(trial["epoch"], ".3g"), number(trial["score_percent"], ".2f")
    remark = trial["reason"] if trial["state"] in ("diverged", "failed", "unfinished") else describe(trial["params"])
    return f"{trial['trial']:<6}{trial['seed']:>4} {epoch:>5} {score:>8}  {trial['state']:<10} {remark}"[:80]


def _damages(found: Data) -> Iterator[str]:
    return (f"damaged record, {problem}" for problem in found["problems"])
