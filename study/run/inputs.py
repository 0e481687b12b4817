"""Detect changed inputs: digests of the inputs are recorded when a study begins, and compared whenever it is resumed.

There are two checks: the digests of data, corpora and encoder in the records, which name the changed input, and the ids of the
stages that trials ran, which are hashed from the same content and exist in older records too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records import record
from analysis.text.places import shareable
from study.cluster.machine_faults import StudyStopped
from study.definition.models import Study, corpora
from study.definition.paths import in_place
from study.planning.check import corpus_choices
from study.run.scribe import Row, Scribe, trial_of, trials
from trainables.data.splits import SPLITS
from trainables.encoder import checkpoint
from trainables.settings import corpus_names
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader
from trainables.stages.node import test_id

Inputs = Mapping[str, Mapping[str, Any]]
"""{name in words: {digest, examples, revision}}"""
CHEAP_BYTES = 64_000_000
"""Total size of local files up to which `since` reads them."""


@dataclass(frozen=True)
class ComparedInputs:
    """The inputs of a study, compared with those of its earlier sessions."""

    now: Inputs
    """Empty if they cannot be read."""
    before: Inputs
    """Empty if the records hold none."""
    changed: tuple[str, ...] = ()
    """The differences, in words."""
    notices: tuple[str, ...] = ()


# Digests -------------------------------------------------------------------------------------------------------------------------


def of(study: Study, reader: Reader) -> Inputs:
    """Return all inputs of a study. Raises ConfigError if one cannot be read."""
    return {name: {key: value for key, value in entry.items() if value is not None} for name, entry in _digests(study, reader)}


def _digests(study: Study, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, task in study.used_tasks.items():
        data = reader.task(name, task, needs_test=False)
        revision = checkpoint.hub_commit("datasets", task.hub, task.revision) if task.hub else None
        for split in SPLITS:
            if examples := len(getattr(data, split)):
                yield f"tasks.{name}.{split}", {"digest": data.digest(split), "examples": examples, "revision": revision}
    for part, digest in checkpoint.digests(study.encoder).items():
        yield f"encoder.{part}", {"digest": digest, "revision": _revision(study.encoder)}
    yield from _corpora(study, reader)


def _revision(encoder: Encoder) -> str | None:
    return checkpoint.hub_commit("models", encoder.hub, encoder.revision) if encoder.hub else None


def _corpora(study: Study, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files of corpora by name; files with the same name are numbered in the order of their paths."""
    digests: dict[str, tuple[str, int]] = {}
    for entries in corpus_choices(study):
        names, files = corpus_names.members(entries, study.task, study.tasks)
        digests |= reader.corpus(names, study.used_tasks, files).files
    taken: list[str] = []
    for file in sorted(digests):
        taken.append(name := corpus_names.short(file.partition("?")[0]))
        number = f" ({taken.count(name)})" if taken.count(name) > 1 else ""
        yield f"corpus {name}{number}", {"digest": digests[file][0], "examples": digests[file][1]}


# Changes -------------------------------------------------------------------------------------------------------------------------


def known(rows: Sequence[Row]) -> Inputs:
    """Return the recorded inputs; empty if old records lack them."""
    return next((row["inputs"] for row in reversed(rows) if row["event"] == "inputs"), {})


def changes(before: Inputs, now: Inputs) -> list[str]:
    """Return a line for every input whose content has changed."""
    return [
        f"{name}: {_how(entry, now.get(name, {}))}"
        for name, entry in before.items()
        if entry.get("digest") != now.get(name, {}).get("digest")
    ]


def _how(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if not now:
        return "no longer exists"
    sizes, revisions = ([entry.get(key) for entry in (now, before)] for key in ("examples", "revision"))
    if sizes[0] != sizes[1]:
        change = f"{sizes[0]} texts, was {sizes[1]}"
    else:
        change = "same number of texts, but other texts, order or labels" if sizes[0] else "other content"
    return change + (f" (revision {revisions[0]}, was {revisions[1]})" if revisions[0] != revisions[1] else "")


def renamed(study: Study, run_dir: Path, rows: list[Row], reader: Reader) -> list[str]:
    """Return recorded trials, one per setting, whose stage ids have changed, and finals whose test texts have changed."""
    if study.precision == "auto":
        return []  # no trial has begun
    rows, _ = in_place(study, run_dir, rows)
    every = [row for phase in ("search", "final") for row in trials(rows, phase).values() if row.get("stage_ids")]
    tested = {row.get("trial"): row.get("stage_id") for row in rows if row["event"] == "evaluation" and row["split"] == "test"}
    one_of_each = {(row.get("setting"), row["trial"] in tested): row for row in reversed(every)}
    return [row["trial"] for row in one_of_each.values() if _is_renamed(study, row, tested.get(row["trial"]), reader)]


def _is_renamed(study: Study, row: Row, tested: str | None, reader: Reader) -> bool:
    try:
        now = trial_of(study, row["trial"], row["phase"], row.get("params") or {}, row.get("seed") or 0, "", reader).stage_ids
    except (ConfigError, ValueError):
        return True  # the data no longer allow this setting
    if now != tuple(row["stage_ids"]):
        return True
    target = reader.task(study.task, study.tasks[study.task])
    return tested is not None and tested != test_id(target, now[-1])


# Check on resume -----------------------------------------------------------------------------------------------------------------


def look(study: Study, run_dir: Path, reader: Reader, accept: bool = False) -> ComparedInputs:
    """Compare the inputs of a study with those that its run folder was computed from; `study` has the precision of that run.

    Raises ConfigError if they differ, unless that is accepted. If they cannot be read, a notice says so: a process that computes
    reads them anyway. Without records the result is empty.
    """
    rows, _ = record.read(run_dir / "records.jsonl")
    if not rows:
        return ComparedInputs({}, {})
    before = known(rows)
    try:
        now = of(study, reader)
        changed = changes(before, now) or _of_stages(renamed(study, run_dir, rows, reader), before)
    except ConfigError as error:
        unread = f"whether inputs have changed is unknown, since they cannot be read: {error.faults[0]}"
        return ComparedInputs({}, before, notices=(unread,) if before or trials(rows, "search") else ())
    if changed and not accept:
        raise ConfigError([f"--out {run_dir}: {MIXED}", *(f"  {line}" for line in changed), WAYS_OUT])
    old = not before and any(row.get("stage_ids") for row in rows)
    return ComparedInputs(now, before, tuple(changed), (UNRECORDED,) if old and not changed else ())


MIXED = "inputs have changed since this was computed, and results of both must not be mixed in one table:"
WAYS_OUT = (
    "  ways out: give another run folder (--out), restore the earlier inputs, or pass --accept-changed-inputs, which repeats all"
    " results from them; the old records stay in the file and no longer count"
)
UNRECORDED = (
    "this run folder does not record the inputs of its earlier sessions; the ids of its trials' stages are unchanged, so data,"
    " corpora and encoder are the same as far as these stages read them"
)


def _of_stages(others: Sequence[str], before: Inputs) -> list[str]:
    if not others:
        return []
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    if before:
        why = "although data, corpora and encoder are the same: the version of finetune-study gives other results"
    else:
        why = "so that data, a corpus, the encoder or the version of finetune-study differs (which one is not recorded here)"
    return [f"ids of the stages of {named} have changed, {why}"]


def write(found: ComparedInputs, scribe: Scribe, run_dir: Path) -> None:
    """Record the inputs read from now on. If they have changed, earlier results no longer count."""
    session = scribe.records.session
    if found.changed:
        _set_aside(run_dir, session)
    if found.changed or found.now != found.before:
        scribe.write("inputs", inputs=dict(found.now), changed=list(found.changed) or None)
    if found.changed:
        scribe.note(record.accepted({"session": session, "changed": found.changed}))
    for text in found.notices:
        scribe.note(text)


def _set_aside(run_dir: Path, session: int) -> None:
    """Rename the folder of predictions: new trials have the same names as those that no longer count."""
    folder = run_dir / "predictions"
    if folder.is_dir():
        folder.rename(run_dir / f"predictions-before-session-{session}")


def since(run_dir: Path, rows: Sequence[Row]) -> list[str]:
    """Return a line for every recorded input that has changed since, if the study's files are local and small."""
    from study.definition.study_file import load_study

    before = known(rows)
    try:
        study = load_study(run_dir / "study.yaml") if before else None
        if study is None or not _is_cheap(study):
            return []
        return changes(before, of(study, Reader()))
    except (ConfigError, OSError):
        return []


def _is_cheap(study: Study) -> bool:
    """Whether all inputs of a study are small local files, so that no hub is contacted."""
    sources = [path for task in study.used_tasks.values() for path in (task.train, task.validation, task.test)]
    sources += corpora(study.recipe, study.space)
    hubs = [task.hub for task in study.used_tasks.values()] + [study.encoder.hub, study.encoder.tokenizer]
    remote = any(hub and not Path(hub).exists() for hub in hubs) or any("://" in str(path) for path in sources)
    files = [file for path in map(Path, study.local_paths) for file in ([path] if path.is_file() else path.rglob("*"))]
    return not remote and sum(file.stat().st_size for file in files) <= CHEAP_BYTES


def check_read(study: Study, rows: Sequence[Row], reader: str, ids: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise StudyStopped if what `reader` computed has `ids` that the recorded inputs do not lead to.

    Every process reads the inputs itself, so one that begins after a file was changed reads other texts.
    """
    if set(ids) <= set(wanted):
        return
    try:
        changed = changes(known(rows), of(study, Reader()))
    except ConfigError as error:
        changed = list(error.faults)
    where = "; ".join(changed) or "on its machine the files or the libraries are others"
    advice = "let nothing write to the inputs while the study runs; then run it again: it says what differs from its records"
    raise StudyStopped(f"inputs changed while the study ran, and {reader} read other ones than it began with: {where}", advice)


def store_changes(rows: Sequence[Row], url: str) -> list[str]:
    """Return a notice if the store differs from that of the last session; else an empty list."""
    before = next((row["store"] for row in reversed(rows) if row["event"] == "study" and row.get("store")), None)
    if before in (None, now := shareable(url)):
        return []
    return [f"the store was {before} and is {now} now: artifacts that are needed and missing there are computed again"]


def library_changes(rows: Sequence[Row], now: Mapping[str, str]) -> list[str]:
    """Return a notice if library versions differ from those of the last session; else an empty list."""
    recorded = (row["versions"] for row in reversed(rows) if row["event"] == "study" and row.get("versions"))
    before: Mapping[str, str] = next(recorded, {})
    other = [f"{name} {before[name]}, now {version}" for name, version in now.items() if before.get(name, version) != version]
    return [f"libraries are not those of the last session: {'; '.join(other)}; its numbers may not be reproduced exactly"] * bool(
        other
    )
