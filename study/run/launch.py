"""Run a study in its run folder: open and check the folder, lock it, run all parts, write the report."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.records import record
from analysis.text import write_whole
from analysis.text.places import shareable
from study.cluster import variables
from study.cluster.machine import Machine
from study.cluster.machine_faults import StudyStopped, stops
from study.cluster.processes import Interrupts, die, end_cluster, quiet
from study.cluster.ray_session import Shared, check_seen, machine_for, ray_session, refuse_running_ray
from study.definition.models import Study
from study.definition.paths import in_place, portable
from study.definition.study_file import load_study
from study.planning.check import check
from study.run import inputs, parts, tracking
from study.run.lock import RunLock
from study.run.screen import Screen
from study.run.scribe import Row, Scribe, failed, trials
from study.run.session import open_session
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader
from trainables.store.store import Store, StoreError

PACKAGES = ("torch", "ray", "optuna", "transformers", "tokenizers", "sentencex", "finetune-study")


@dataclass(frozen=True)
class StudyOutcome:
    """The end of a study: whether there is a result, the text to print, and a line on failed trials."""

    has_result: bool
    text: str
    failed: str = ""


def opened(
    study: Study, run_dir: Path, accept: bool = False, retry_failed: bool = False, reader: Reader | None = None
) -> tuple[bool, inputs.ComparedInputs]:
    """Return (whether the study is finished, its inputs compared with those that the folder was computed from).

    Raises ConfigError if the folder belongs to another study, or to other inputs unless that is accepted.
    """
    earlier = _earlier(run_dir, study)
    compared = inputs.look(study if earlier is None else _with_precision(study, earlier), run_dir, reader or Reader(), accept)
    if earlier is not None and compared.now and not compared.changed and (names := earlier.renamed(study)):
        compared = replace(
            compared, notices=(*compared.notices, f"files have other names and the same content: {'; '.join(names)}")
        )
    finished = earlier is not None and not compared.changed and _finished(run_dir, study, earlier)
    return finished and not (retry_failed and _can_retry(run_dir, study)), compared


def run(
    study: Study,
    run_dir: Path,
    store: str | None = None,
    address: str | None = None,
    shared: Shared | None = None,
    accept_changed_inputs: bool = False,
    retry_failed: bool = False,
    reader: Reader | None = None,
    process_goes_on: bool = False,
) -> StudyOutcome:
    """Run or resume a study. Returns at once if it is finished.

    `shared` is a Ray that several studies use one after the other, and `reader` what they have read; by default a study starts
    and reads its own. With `accept_changed_inputs` results from other data or another encoder no longer count; with `retry_failed`
    failed trials are run again. With `process_goes_on` no interrupt ends this process, however long Ray takes to stop. Raises
    ConfigError for wrong input, RunInUse if another driver has the folder, KeyboardInterrupt after SIGINT or SIGTERM, StudyStopped
    if the machine or all trials alike failed.
    """
    began = time.monotonic()
    reader = reader or Reader()
    finished, compared = opened(study, run_dir, accept_changed_inputs, retry_failed, reader)
    if finished:
        lines = [f"{study.name} is finished; nothing was run again", *(f"note: {text}" for text in compared.notices)]
        return _outcome(run_dir, "\n".join(lines))
    artifacts = Store(store or study.store or Store.default().url)
    if shared is None:
        refuse_running_ray()
    machine = None if address else machine_for(study.resources)
    notices = [*check(study, machine, reader), *variables.notices(address)]
    if not compared.now:  # a new folder, or inputs that could not be read a moment ago
        _, compared = opened(study, run_dir, accept_changed_inputs, reader=reader)
        compared = replace(compared, now=compared.now or inputs.of(study, reader))
    own = Interrupts(end_cluster if process_goes_on else die, study.budget.session_hours, began)
    with (
        stops(),
        RunLock(run_dir),
        nullcontext(shared.interrupts) if shared else own as interrupts,
        quiet(run_dir / "study.log") as terminal,
    ):
        study = _resolved(run_dir, study)
        rows, problems = record.read(run_dir / "records.jsonl")
        with Screen(terminal, study.name, study.metric) as screen:
            rows, written = in_place(study, run_dir, rows)
            records = record.Records(run_dir / "records.jsonl", study.name)
            scribe = Scribe(records, screen, rows, study.metric, written)
            write_whole.write_whole(run_dir / "study.yaml", portable(study, run_dir).to_yaml())
            (run_dir / "report" / "table.txt").unlink(missing_ok=True)  # outdated from now on
            if retry_failed:
                _begin_again(scribe)
            elif text := _failed_text(rows):
                screen.say(f"note: {text}")
            session = partial(shared.session if shared else ray_session, study.resources, address)
            with tracking.beside(study.track, run_dir, scribe):
                return _run_session(study, run_dir, artifacts, scribe, session, interrupts, compared, [*notices, *problems], reader)


def _run_session(
    study: Study,
    run_dir: Path,
    store: Store,
    scribe: Scribe,
    session_of_ray: Callable[[], AbstractContextManager[Machine]],
    interrupts: Interrupts,
    compared: inputs.ComparedInputs,
    notices: list[str],
    reader: Reader,
) -> StudyOutcome:
    """Start Ray, run the remaining parts, record how the session ended."""
    began = time.monotonic()

    def spent() -> dict[str, float]:
        return {"seconds": time.monotonic() - began}

    def note(status: str, **more: Any) -> None:
        fields = {"versions": versions(), "commit": commit(), "device": _device(scribe.rows)}
        fields |= {"store": shareable(store.url)}
        scribe.write("study", status=status, config_digest=_digest(study), **fields, **more)

    def interrupted() -> None:
        if scribe.rows[-1].get("status") != "interrupted":
            note("interrupted", **spent())

    def stopped(reason: str) -> None:
        print(traceback.format_exc(), flush=True)  # stdout is the log
        with suppress(StudyStopped):  # the disk of the records may be full
            note("stopped", reason=reason, **spent())

    others = [*inputs.library_changes(scribe.rows, versions()), *inputs.store_changes(scribe.rows, store.url)]
    try:
        note("resumed" if scribe.records.session else "started")
        inputs.write(compared, scribe, run_dir)
        for text in [*others, *notices]:
            scribe.note(text)
        with stops():
            store.check_writable()  # fail now rather than in the first trial
        with suppress(StoreError, OSError):
            store.collect()
        with stops(), session_of_ray() as machine:
            interrupts.install()
            if len(machine.nodes) > 1:
                check_seen(store, study.local_paths)
            session = open_session(study, run_dir, store, scribe, machine, reader)
            try:
                parts.all_parts(session)
            except KeyboardInterrupt:
                interrupted()  # before Ray's shutdown, which may be slow
                raise
        study = session.study
        note("finished", **spent())
    except (KeyboardInterrupt, SystemExit):  # SystemExit: Ray's handler of SIGTERM until `interrupts` replaces it
        interrupted()
        raise KeyboardInterrupt(interrupts.reason) from None
    except StudyStopped as stop:
        stopped(stop.reason)
        raise
    return _outcome(run_dir, f"{study.name} finished", anew=True)


# Opening a run folder -------------------------------------------------------------------------------------------------------------


def _earlier(run_dir: Path, study: Study) -> Study | None:
    """The study in the run folder; None without one. Raises ConfigError if it is another study, or if this is no run folder."""
    begun = any((run_dir / name).exists() for name in ("records.jsonl", "lock.json"))
    if not begun or not (run_dir / "study.yaml").exists():
        if run_dir.exists() and (not run_dir.is_dir() or set(os.listdir(run_dir)) - {"lock.json", "study.log", "records.jsonl"}):
            raise ConfigError([f"--out {run_dir}: exists and is no run folder; give another"])
        return None
    earlier = load_study(run_dir / "study.yaml")
    differences = earlier.differences(_with_precision(study, earlier))
    if differences:
        raise ConfigError([f"--out {run_dir}: the folder of another study; give another folder, or undo:", *differences])
    return earlier


def _with_precision(study: Study, earlier: Study) -> Study:
    """Replace `precision: auto` by the precision that the run resolved it to when it began."""
    return study.model_copy(update={"precision": earlier.precision}) if study.precision == "auto" else study


def _resolved(run_dir: Path, study: Study) -> Study:
    earlier = _earlier(run_dir, study)
    return study if earlier is None else _with_precision(study, earlier)


def _digest(study: Study) -> str:
    """Hash of what a finished study has done: it changes with the budget, the seeds or the baseline, not with resources.

    The hours of a session only distribute the same work over more commands.
    """
    data = {key: study.canonical()[key] for key in ("budget", "final", "baseline")} | study.identity()
    del data["budget"]["session_hours"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _finished(run_dir: Path, study: Study, earlier: Study) -> bool:
    rows, _ = record.read(run_dir / "records.jsonl")
    last = [row for row in rows if row.get("event") == "study"][-1:]
    study = _with_precision(study, earlier)
    done = last[0].get("config_digest") if last and last[0]["status"] == "finished" else None
    return done == _digest(study)


# Trials that failed ---------------------------------------------------------------------------------------------------------------


def _can_retry(run_dir: Path, study: Study) -> bool:
    """Whether anything failed in a finished study: trials, the test scores of a final, the bag of words."""
    rows, _ = record.read(run_dir / "records.jsonl")
    tested = {row.get("trial") for row in rows if row["event"] == "evaluation" and row.get("split") == "test"}
    finals = {name for name, row in trials(rows, "final").items() if row["status"] == "complete"}
    return bool(failed(rows) or finals - tested or (study.baseline and not any(row["event"] == "baseline" for row in rows)))


def _begin_again(scribe: Scribe) -> None:
    """Record failed trials as unfinished: the search then runs them first, with their numbers and settings."""
    for row in failed(scribe.rows):
        scribe.reopens(row, f"failed before and is restarted: {row.get('reason')}")


def _failed_text(rows: list[Row]) -> str:
    """Text on failed trials, `2 trials failed: t000, t003. --retry-failed runs them again`; empty without any."""
    names = [row["trial"] for row in failed(rows)]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    one = len(names) == 1
    again = f"--retry-failed runs {'it' if one else 'them'} again"
    return f"{len(names)} trial{'s' * (not one)} failed: {shown}. {again}" if names else ""


# Outcome --------------------------------------------------------------------------------------------------------------------------


def _device(rows: list[Row]) -> str | None:
    """Device of the last evaluation; None before the first."""
    return next((row["device"] for row in reversed(rows) if row["event"] == "evaluation" and row.get("device")), None)


def _outcome(run_dir: Path, text: str, anew: bool = False) -> StudyOutcome:
    """Write the report and return the text to print at the end, also if the report cannot be written."""
    from analysis.pages import output, study_page

    table = run_dir / "report" / "table.txt"
    try:
        if anew or not table.exists():
            output.write(run_dir / "report", study_page.read(run_dir).files, output.FORMATS)
        report = f"{table.read_text(encoding='utf-8')}\nreport: {run_dir / 'report' / 'report.html'}"
    except OSError as error:
        report = unwritten(error, run_dir)
    rows, _ = record.read(run_dir / "records.jsonl")
    tested = any(row["event"] == "evaluation" and row.get("split") == "test" for row in rows)
    if not tested:
        reasons = sorted({str(row.get("reason")) for row in trials(rows, "search").values() if row.get("reason")})
        text += "\nno trial has a result" + "".join(f"\n  {reason}" for reason in reasons[:5])
    lost = _failed_text(rows)
    if tested:
        report += f"\nmodel: study export {shlex.quote(str(run_dir))} writes it as a folder"
    return StudyOutcome(tested, f"{text}\n{lost}\n\n{report}" if lost else f"{text}\n\n{report}", lost)


def unwritten(error: OSError, run_dir: Path) -> str:
    """Message for a study whose results are complete but whose report cannot be written."""
    return f"no report was written: {error}; all results are complete; after the repair, run: study report {run_dir}"


def log_failure(run_dir: Path) -> Path:
    """Write the current exception's traceback to the run's log, or to a new file without a run folder. Returns the file."""
    path = run_dir / "study.log"
    if not run_dir.is_dir():
        path = Path(tempfile.mkdtemp(prefix="study-")) / "study.log"
    with open(path, "a", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return path


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that determine results."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def commit() -> str | None:
    """Return the commit of this code, with + if the tree has changes; None outside a checkout."""
    here = Path(__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True, timeout=5
        ).stdout
        return head + ("+" if changed.strip() else "")
    return None
