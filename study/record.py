"""Records: the one truth about a study, an append-only file of JSON lines.

`FIELDS` says what a record may hold; the writer refuses anything else, the reader counts it and uses the rest. A record is on disk
when `append` returns. Needs the standard library only: `analysis` reads records where neither torch nor ray is installed.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from study.places import shareable

Row = dict[str, Any]
BAG_OF_WORDS = "bag-of-words"
"""What stands in the place of a trial's name in the file of its test predictions."""


class Field(NamedTuple):
    """One field of a record: its JSON type, its meaning with the unit, and whether a record without it is of no use."""

    type: type
    meaning: str
    required: bool = False


COMMON = {
    "event": Field(str, "what kind of record this is", required=True),
    "study": Field(str, "name of the study"),
    "utc": Field(str, "time of writing, UTC, ISO 8601"),
    "session": Field(int, "0 for the first start of the study, one more for each resume"),
}

_SCORED = {
    "trial": Field(str, "trial that asked for it; null for a shared stage"),
    "phase": Field(str, "search or final; null for a shared stage"),
    "recipe": Field(str, "kind of recipe, such as BERT-ITPT-FiT, or bag of words"),
    "setting": Field(str, "hash of the searched parameters, 8 hex digits"),
    "stage_id": Field(str, "identity of the stage, which names its artifact"),
    "stage": Field(str, "kind of stage: pretrain, multitask, marks, finetune, test"),
    "stage_name": Field(str, "name of the stage in the study"),
    "task": Field(str, "name of the task"),
    "split": Field(str, "split evaluated on: train, validation, test, heldout", required=True),
    "seed": Field(int, "seed of the stage"),
    "epoch": Field(float, "passes over the training split so far"),
    "step": Field(int, "optimizer steps so far"),
    "examples": Field(int, "size of the split"),
    "tokens": Field(int, "pieces trained on so far, padding not counted"),
    "error_rate_percent": Field(float, "share of wrong labels, percent"),
    "macro_f1": Field(float, "F1 averaged over classes, 0 to 1"),
    "micro_f1": Field(float, "F1 over all decisions, 0 to 1"),
    "mcc": Field(float, "Matthews correlation coefficient, -1 to 1"),
    "loss": Field(float, "mean cross-entropy on the split, nats"),
    "by_task": Field(
        dict,
        "multitask: scores of each task, {name: {error_rate_percent, loss, ...}}; the record's own are the target task's, or, where"
        " that is not among them, the means of error rate and loss",
    ),
    "train_error_rate_percent": Field(
        float, "share of wrong labels on training texts, as many as are validated, percent; with several evaluations an epoch"
    ),
    "train_loss": Field(float, "mean training loss since the last evaluation, nats"),
    "learning_rate": Field(float, "learning rate of the top layer at this step"),
    "group_rates": Field(dict, "peak learning rate of every parameter group"),
    "f1_by_label": Field(dict, "of a multi-label task, label: F1 (0 to 1)"),
    "thresholds": Field(list, "of a multi-label task, the probability from which on each label is given, tuned on validation"),
    "mark_f1": Field(float, "marks: F1 of the class important over the pieces of the held-out texts, 0 to 1"),
    "marked_percent": Field(float, "marks: share of those pieces that the marker marks, percent"),
    "micro_batch": Field(int, "sequences per forward pass; 0: the whole batch"),
    "wall_s": Field(float, "seconds of training so far"),
    "energy_j": Field(
        float, "joules of the GPUs so far, this validation included; null where a trial has no whole GPU, or nothing tells"
    ),
    "tokens_per_s": Field(float, "pieces trained on per second"),
    "device": Field(str, "cpu, or the name of the GPU"),
    "precision": Field(str, "arithmetic of matrix products: float32 or bfloat16"),
    "source": Field(str, "computed now, or loaded from the store"),
    "attempt": Field(int, "0 for the first try of the trial, one more for each retry"),
    "status": Field(str, "running, complete, or diverged when a value was not finite (written as null)"),
}

FIELDS: dict[str, dict[str, Field]] = {
    "study": {
        "status": Field(str, "started, resumed, interrupted, stopped, finished", required=True),
        "reason": Field(str, "why it stopped before its end: what failed of the machine, or of all trials alike"),
        "seconds": Field(float, "length of this session, seconds"),
        "cpu_energy_j": Field(
            float, "joules in this session of all CPU packages of the machine, whatever ran on it; null with several machines"
        ),
        "versions": Field(dict, "package: version"),
        "commit": Field(str, "commit of the code, with + when the tree had changes"),
        "device": Field(str, "what trials were last computed on: cpu, or the name of the GPU"),
        "config_digest": Field(str, "hash of the resolved study file"),
        "store": Field(str, "where artifacts are kept"),
        "note": Field(str, "anything else"),
    },
    "notice": {
        "text": Field(str, "what the user should know", required=True),
        "source": Field(str, "where it comes from"),
    },
    "inputs": {
        "inputs": Field(
            dict, "what the study reads, {name: {digest of its content, examples, revision on the hub}}", required=True
        ),
        "changed": Field(
            list,
            "inputs that are not those of earlier sessions, in words, which the user has accepted: all records before this one but"
            " `study` and `inputs` count no more",
        ),
    },
    "plan": {
        "tokens_shared": Field(int, "pieces to train on, each shared stage once"),
        "tokens_unshared": Field(int, "pieces to train on if every trial ran its own stages"),
        "trials": Field(int, "trials of the search"),
        "metric": Field(str, "what trials are compared by: error_rate, macro_f1, ...; null in old records: error_rate"),
        "labels": Field(list, "names of the target task's classes or labels, in order"),
        "splits": Field(dict, "examples in train, validation and test split of the target task"),
        "stages": Field(list, "shared stages: {stage_id, parent_id, kind, name, label, cached}"),
    },
    "stage": {
        "stage_id": Field(str, "identity of the stage", required=True),
        "parent_id": Field(str, "identity of the stage it starts from; null: the encoder"),
        "trajectory_id": Field(str, "identity of the pretrain run that it is a milestone of; of another stage its own"),
        "kind": Field(str, "pretrain, multitask, marks, finetune, test"),
        "name": Field(str, "name of the stage in the study"),
        "steps": Field(int, "optimizer steps along the trajectory"),
        "status": Field(str, "computed, loaded, failed", required=True),
        "tokens": Field(int, "pieces trained on, from the start of the trajectory"),
        "seconds": Field(float, "seconds that its trajectory took in this session"),
        "wall_s": Field(float, "seconds of training from the start of the trajectory, in whatever session and study"),
        "energy_j": Field(float, "joules of the GPUs in these seconds; null where nothing tells"),
        "by_task": Field(dict, "multitask: validation scores of each task at the end, {name: {error_rate_percent, macro_f1, ...}}"),
        "reason": Field(str, "why it failed"),
    },
    "trial": {
        "trial": Field(str, "t000, t001, ... in the order asked; f00, f01, ... for finals", required=True),
        "phase": Field(str, "search or final"),
        "params": Field(dict, "searched settings, path: value"),
        "setting": Field(str, "hash of params, 8 hex digits"),
        "label": Field(str, "name of the setting in tables"),
        "seed": Field(int, "seed of the trial"),
        "stage_ids": Field(list, "identities of its stages in order"),
        "status": Field(
            str, "started, complete, stopped (early), diverged, failed, unfinished (a resume asks for it)", required=True
        ),
        "reason": Field(str, "why it stopped, diverged, failed or is unfinished; (stage NAME) says in which stage"),
        "where": Field(str, "line of code at which it diverged or failed"),
        "epochs": Field(float, "epochs run"),
        "error_rate_percent": Field(float, "last validation error, percent"),
        "metric": Field(str, "what it is compared by; null in old records: error_rate"),
        "objective_percent": Field(
            float, "what the search makes small, last on validation: the error, or 100 less another metric in percent"
        ),
        "tokens": Field(int, "pieces trained on"),
        "seconds": Field(float, "seconds it took in this session"),
        "wall_s": Field(float, "seconds of its fine-tuning, in whatever session; where it was loaded, of when it was computed"),
        "energy_j": Field(float, "joules of the GPUs in these seconds, validation included; null where nothing tells"),
        "attempt": Field(int, "0 for the first try, one more for each retry"),
        "source": Field(str, "computed now, or loaded from the store"),
    },
    "evaluation": _SCORED,
    "baseline": _SCORED
    | {
        "c": Field(float, "inverse strength of the regularisation"),
        "train_examples": Field(int, "labelled texts that it is fit on for the test"),
        "words": Field(str, "what it looks at: words, characters (of scripts without spaces) or signs (of texts without words)"),
        "seconds": Field(float, "seconds to fit and evaluate"),
    },
    "selection": {
        "settings": Field(
            list,
            "chosen settings: {setting, label, params, rank, error_rate_percent and objective_percent (validation means)}",
            required=True,
        ),
        "k": Field(int, "how many of the best were chosen"),
        "seeds": Field(list, "seeds of the finals"),
    },
}

IDENTITY = ("trial", "stage_id", "split", "epoch", "step")
"""What makes an evaluation the same one: a second record of it is dropped, after a crash too."""

PROSE = ("text", "reason", "note")
"""Fields that may quote paths and addresses: they are written as `study.places` shows them to others."""

LASTING = ("study", "inputs")
"""Events that count whatever the inputs are."""


_FLAT = frozenset({str, int, float, bool, type(None)})


class RecordError(ValueError):
    """A record that `FIELDS` does not allow."""


def fields(event: str) -> dict[str, Field]:
    """All fields of an event. Raises RecordError for an unknown event."""
    if event not in FIELDS:
        raise RecordError(f"unknown event {event!r}{_near(event, FIELDS)}")
    return COMMON | FIELDS[event]


class Records:
    """Writer of a records file. One process writes at a time (the run folder's lock sees to that); threads may share a writer."""

    def __init__(self, path: str | Path, study: str | None = None, session: int | None = None) -> None:
        """Open for appending; `session` is by default the one after the last in the file."""
        self.path = Path(path)
        rows, _ = read(self.path)
        self.study = study if study is not None else next((row["study"] for row in rows if row.get("study")), None)
        self.session = 1 + max((row.get("session") or 0 for row in rows), default=-1) if session is None else session
        self._seen = {_identity(row) for row in rows if row["event"] == "evaluation"}
        self._lock = threading.Lock()

    def append(self, event: str, **values: Any) -> bool:
        """Write one record and wait until the disk has it; False when the file already holds that evaluation.

        Values that are not finite become null, and such an evaluation gets the status `diverged`. Raises RecordError for an unknown
        event or field, a wrong type or a missing required field, and OSError when the disk refuses (the file stays whole).
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row = {"event": event, "study": self.study, "utc": now, "session": self.session} | values
        if event in ("evaluation", "baseline") and any(isinstance(v, float) and not math.isfinite(v) for v in values.values()):
            row["status"] = "diverged"
        row = {name: value for name, value in _plain(row).items() if value is not None}
        row |= {name: shareable(text) for name in PROSE if isinstance(text := row.get(name), str)}
        if faults := list(_faults(row, strict=True)):
            raise RecordError("; ".join(faults))
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            key = _identity(row) if event == "evaluation" else None
            if key in self._seen:
                return False
            _append(self.path, line)
            if key is not None:
                self._seen.add(key)
            if starts_again(row):
                self._seen.clear()
        return True


def starts_again(row: Mapping[str, Any]) -> bool:
    """Whether results before this record count no more, since they were computed from other inputs."""
    return row["event"] == "inputs" and bool(row.get("changed"))


def accepted(row: Mapping[str, Any]) -> str:
    """Such a record in words."""
    when = f"inputs changed before session {row.get('session') or 0}, which was accepted"
    return f"{when}: {'; '.join(map(str, row['changed']))}. What was computed before counts no more"


def counting(rows: Sequence[Row]) -> list[Row]:
    """Those records that still count: all after the last that starts again, and of those before it what lasts."""
    last = max((at for at, row in enumerate(rows) if starts_again(row)), default=0)
    return [row for at, row in enumerate(rows) if at >= last or row["event"] in LASTING]


def read(path: str | Path, skip: Callable[[bytes], bool] | None = None) -> tuple[list[Row], list[str]]:
    """(records in order, problems: one line for each line of the file that is none). A file that does not exist holds none.

    A line torn by a crash, or of another program or version, costs itself only. Of two records of one evaluation the first counts.
    What was computed from inputs that others have replaced is left out.
    Lines that `skip` is true of are not read: of a million records most are of no interest to most readers.
    """
    rows: list[Row] = []
    problems, seen = [], set()
    for _, row in parsed(pair for pair in _lines(path) if pair[1].strip() and not (skip is not None and skip(pair[1]))):
        if isinstance(row, str):
            problems.append(row)
            continue
        if row["event"] == "evaluation":
            if _identity(row) in seen:
                continue
            seen.add(_identity(row))
        elif starts_again(row):
            seen.clear()
        rows.append(row)
    return counting(rows), problems


def parsed(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Row | str]]:
    """(number of the line, its record, or what is wrong with it)."""
    sound: set[tuple[Any, ...]] = set()  # names and types of records without a fault: most are of a few shapes
    for number, line in lines:
        row = _parse(line)
        if row is None:
            torn = not line.endswith(b"\n")
            yield number, f"line {number}: {'torn by a crash' if torn else 'not a JSON object'}"
            continue
        shape = (row.get("event"), *row, *map(type, row.values()))
        if shape not in sound:
            if faults := list(_faults(row, strict=False)):
                yield number, f"line {number}: {'; '.join(faults)}"
                continue
            sound.add(shape)
        yield number, row


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        yield from enumerate(file, start=1)


def document() -> str:
    """The field tables as Markdown."""
    same = ", ".join(f"`{name}`" for name in IDENTITY)
    text = f"""# Records

`RUN/records.jsonl` holds one JSON object a line, append-only. It is the one truth about a study: tables, figures, the page and a
resume come from it. A field that is absent is null, and so is a value that is not finite. Of two evaluations with the same
{same} the first counts.

## Every record"""
    parts = [text, _table(COMMON)]
    for event, table in FIELDS.items():
        parts += [f"## `{event}`", _table(table)]
    return "\n\n".join(parts) + "\n"


JSON_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}


def _table(table: Mapping[str, Field]) -> str:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}`{' *' if f.required else ''} | {JSON_NAMES[f.type]} | {f.meaning} |" for name, f in table.items()]
    return "\n".join(lines) + ("\n\n\\* always there" if any(f.required for f in table.values()) else "")


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in IDENTITY)


def _faults(row: Mapping[str, Any], strict: bool) -> Iterator[str]:
    """What is wrong with a row; unknown fields (of a newer version) only when `strict`."""
    event = row.get("event")
    if not isinstance(event, str) or event not in FIELDS:
        yield f"unknown event {event!r:.60}{_near(str(event), FIELDS)}"
        return
    table = fields(event)
    for name, value in row.items():
        if name not in table:
            if strict:
                yield f"{event}: unknown field {name!r}{_near(name, table)}"
        elif value is not None and not _is(value, table[name].type):
            yield f"{event}.{name}: {value!r:.60} given, {JSON_NAMES[table[name].type]} expected"
    yield from (f"{event}.{name}: missing" for name, field in table.items() if field.required and row.get(name) is None)


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return False  # no number that any field can have, and none that a float can hold
    return isinstance(value, (int, float) if kind is float else kind)


def _near(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(known)}"


def _plain(value: Any) -> Any:
    """Plain JSON data that every reader takes: no NaN, no infinity, no half characters, no array scalars."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value) if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is not None and not isinstance(value, (int, bool)) and hasattr(value, "item"):
        return _plain(value.item())
    return value


def _parse(line: bytes) -> Row | None:
    """The JSON object in a line, or None."""
    try:
        row = json.loads(line.decode("utf-8"))
        if isinstance(row, dict) and b"\\u" not in line and _is_plain(row):
            return row
        row = _plain(row)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_plain(row: Row) -> bool:
    """Whether `_plain` would leave a row without any half character as it is."""
    values = row.values()
    return _FLAT.issuperset(map(type, values)) and math.isfinite(sum(value for value in values if type(value) is float))


def _append(path: Path, line: bytes) -> None:
    """Add a line, durable when this returns; all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        line = _mended(path, file) + line
        size = os.fstat(file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            os.fsync(file)
        except OSError:
            with suppress(OSError):  # what the disk said first is what counts
                os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
    if created and hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mended(path: Path, file: int) -> bytes:
    """Cut off a last line that a crash tore; what must be written first to end one that lacks only its line feed."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return b""
    torn = path.read_bytes().rpartition(b"\n")[2]
    if _parse(torn) is not None:
        return b"\n"
    os.ftruncate(file, size - len(torn))
    return b""
