"""The fields of records: names, types and meaning; docs/records.md is generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from analysis.records.metric import SCORES

BAG_OF_WORDS = "bag-of-words"
"""The bag of words' name in place of a trial's name, in the file name of its test predictions."""


class Field(NamedTuple):
    """One field of a record: its JSON type, its meaning with the unit, and whether it is required."""

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
    "trial": Field(str, "trial that it belongs to; null for a shared stage"),
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
    **{name: Field(float, meaning) for name, meaning in SCORES.items()},
    "by_task": Field(
        dict,
        "multitask: scores of each task, {name: {error_rate_percent, loss, ...}}; the record's own are the target task's, or, if"
        " that is not among them, the means of error rate and loss",
    ),
    "train_error_rate_percent": Field(
        float, "share of wrong labels on training texts, as many as are validated, percent; with several evaluations an epoch"
    ),
    "train_loss": Field(float, "mean training loss since the last evaluation, nats"),
    "learning_rate": Field(float, "learning rate of the top layer at this step"),
    "group_rates": Field(dict, "peak learning rate of every parameter group"),
    "f1_by_label": Field(dict, "of a multi-label task, label: F1 (0 to 1)"),
    "thresholds": Field(list, "of a multi-label task, the probability from which on each label is predicted, tuned on validation"),
    "temperature": Field(
        float, "test: what logits are divided by to calibrate probabilities, fitted on validation; null in old records"
    ),
    "mark_f1": Field(float, "marks: F1 of the class important over the pieces of the held-out texts, 0 to 1"),
    "marked_percent": Field(float, "marks: share of those pieces that the marker marks, percent"),
    "micro_batch": Field(int, "sequences per forward pass; 0: the whole batch"),
    "wall_s": Field(float, "seconds of training so far"),
    "energy_j": Field(
        float, "joules of the GPUs so far, this validation included; null if a trial has no whole GPU, or no counter can be read"
    ),
    "tokens_per_s": Field(float, "pieces trained on per second"),
    "device": Field(str, "cpu, or the name of the GPU"),
    "attention": Field(str, "of packed batches on a GPU, the kernels that computed attention: flash, efficient, plain"),
    "precision": Field(str, "arithmetic of matrix products: float32, tf32, bfloat16 or float16"),
    "skipped_steps": Field(int, "with float16, optimizer steps of the stage so far that were skipped: a gradient was not finite"),
    "source": Field(str, "computed now, or loaded from the store"),
    "attempt": Field(int, "0 for the first try of the trial, one more for each retry"),
    "status": Field(str, "running, complete, or diverged when a value was not finite (written as null)"),
}

FIELDS: dict[str, dict[str, Field]] = {
    "study": {
        "status": Field(str, "started, resumed, interrupted, stopped, finished", required=True),
        "reason": Field(str, "why it stopped early: what failed in the machine, or in all trials alike"),
        "seconds": Field(float, "length of this session, seconds"),
        "cpu_energy_j": Field(
            float, "joules of all CPU packages of the machine in this session; only in records of earlier versions"
        ),
        "versions": Field(dict, "package: version"),
        "commit": Field(str, "commit of the code, with + when the tree had changes"),
        "device": Field(str, "what trials were last computed on: cpu, or the name of the GPU"),
        "config_digest": Field(str, "hash of the resolved study file"),
        "store": Field(str, "where artifacts are kept"),
        "note": Field(str, "anything else"),
    },
    "notice": {
        "text": Field(str, "message to the user", required=True),
        "source": Field(str, "its origin"),
    },
    "inputs": {
        "inputs": Field(
            dict, "what the study reads, {name: {digest of its content, examples, revision on the hub}}", required=True
        ),
        "changed": Field(
            list,
            "inputs that differ from those of earlier sessions, in words; the user has accepted this: records before this one no"
            " longer count, except `study` and `inputs`",
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
        "computes_on": Field(str, "what this session computes on: `2 CPU cores, 1 a trial, 2 trials at a time`"),
        "machine": Field(str, "processor, CPU cores and memory that may be used, memory of a GPU; or the joined cluster"),
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
        "wall_s": Field(float, "seconds of training from the start of the trajectory, over all sessions and studies"),
        "energy_j": Field(float, "joules of the GPUs in these seconds; null where nothing tells"),
        "by_task": Field(dict, "multitask: validation scores of each task at the end, {name: {error_rate_percent, macro_f1, ...}}"),
        "reason": Field(str, "why it failed"),
    },
    "trial": {
        "trial": Field(str, "t000, t001, ... in the order proposed; f00, f01, ... for finals", required=True),
        "phase": Field(str, "search or final"),
        "params": Field(dict, "searched settings, path: value"),
        "setting": Field(str, "hash of params, 8 hex digits"),
        "label": Field(str, "name of the setting in tables"),
        "seed": Field(int, "seed of the trial"),
        "stage_ids": Field(list, "identities of its stages in order"),
        "status": Field(str, "started, complete, stopped (early), diverged, failed, unfinished (a resume runs it)", required=True),
        "reason": Field(str, "why it stopped, diverged, failed or is unfinished; (stage NAME) names the stage"),
        "where": Field(str, "line of code at which it diverged or failed"),
        "epochs": Field(float, "epochs run"),
        "error_rate_percent": Field(float, "last validation error, percent"),
        "metric": Field(str, "what it is compared by; null in old records: error_rate"),
        "objective_percent": Field(
            float, "the loss that the search minimises, last on validation: the error, or 100 minus another metric in percent"
        ),
        "tokens": Field(int, "pieces trained on"),
        "seconds": Field(float, "seconds it took in this session"),
        "wall_s": Field(float, "seconds of its fine-tuning, over all sessions; if it was loaded, of when it was computed"),
        "energy_j": Field(float, "joules of the GPUs in these seconds, validation included; null where nothing tells"),
        "attempt": Field(int, "0 for the first try, one more for each retry"),
        "source": Field(str, "computed now, or loaded from the store"),
    },
    "evaluation": _SCORED,
    "baseline": _SCORED
    | {
        "c": Field(float, "inverse strength of the regularisation"),
        "train_examples": Field(int, "labelled texts that it is fit on for the test"),
        "words": Field(str, "its features: words, characters (of scripts without spaces) or signs (of texts without words)"),
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
"""Fields that identify an evaluation: a second record with the same values is dropped, after a crash too."""


FLAT = frozenset({str, int, float, bool, type(None)})


class RecordError(ValueError):
    """Raised for a record that `FIELDS` does not allow."""


def fields(event: str) -> dict[str, Field]:
    """Return all fields of an event. Raises RecordError for an unknown event."""
    if event not in FIELDS:
        raise RecordError(f"unknown event {event!r}{near_miss(event, FIELDS)}")
    return COMMON | FIELDS[event]


def document() -> str:
    """Return the field tables as Markdown."""
    same = ", ".join(f"`{name}`" for name in IDENTITY)
    text = f"""# Records

`RUN/records.jsonl` holds one JSON object a line, append-only. Tables, figures, the page and the state for a resume come from it. An
absent field is null, and so is a value that is not finite. Of two evaluations with the same {same}
the first counts.

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


def identity_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of an evaluation's IDENTITY fields."""
    return tuple(row.get(name) for name in IDENTITY)


def near_miss(name: str, known: Mapping[str, Any]) -> str:
    """End of an error message: the closest known name, else all of them."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(known)}"
