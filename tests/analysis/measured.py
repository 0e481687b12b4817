"""Make a run from the predictions of a test; its scores are scikit-learn's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, matthews_corrcoef, roc_auc_score

from analysis.records import record, record_fields

Array = np.ndarray[Any, Any]


def scores(has: Array, given: Array, names: Sequence[str], likely: Array | None = None) -> dict[str, Any]:
    """Return the scores that an evaluation records, for classes [n] or 0/1 [n, labels]; `likely`: their probabilities."""
    places = list(range(len(names)))
    several = has.ndim > 1
    macro = f1_score(has, given, average="macro", zero_division=0, labels=places if several else None)
    found = {
        "error_rate_percent": 100 * (1 - float(accuracy_score(has, given))),
        "macro_f1": float(macro),
        "micro_f1": float(f1_score(has, given, average="micro", zero_division=0)),
        "loss": 0.5,
        "examples": len(has),
    }
    if likely is not None:
        found |= of_probabilities(has if several else np.eye(len(names))[has], likely, has)
    if several:
        each = f1_score(has, given, average=None, zero_division=0)
        return found | {"f1_by_label": dict(zip(names, each.tolist(), strict=True)), "thresholds": [0.25] * len(names)}
    return found | {"mcc": float(matthews_corrcoef(has, given))}


def of_probabilities(columns: Array, likely: Array, has: Array, weights: Array | None = None) -> dict[str, float]:
    """ROC AUC, average precision and log loss of 0/1 [n, classes]; of two classes with one label per text those of the second.

    `has` are the labels as `scores` takes them, `weights` the weights of the texts.
    """
    ranked = likely
    if has.ndim == 1 and columns.shape[1] == 2:
        columns, ranked = columns[:, 1], likely[:, 1]
    if has.ndim > 1:
        loss = np.mean([log_loss(has[:, i], likely[:, i], labels=[0, 1], sample_weight=weights) for i in range(has.shape[1])])
    else:
        loss = log_loss(has, likely, labels=range(likely.shape[1]), sample_weight=weights)
    return {
        "roc_auc": float(roc_auc_score(columns, ranked, sample_weight=weights)),
        "average_precision": float(average_precision_score(columns, ranked, sample_weight=weights)),
        "loss": float(loss),
    }


def keep(folder: Path, name: str, has: Array, given: Array, likely: Array | None = None) -> None:
    """The copy of test predictions in the run folder."""
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    columns = {"index": np.arange(len(has))}
    for column, values in (("label", has), ("prediction", given)):
        columns[column] = values if values.ndim == 1 else pa.array([np.flatnonzero(row).tolist() for row in values])
    if likely is not None:
        columns["probabilities"] = pa.array(list(likely.astype(np.float32)))
    pq.write_table(pa.table(columns), folder / "predictions" / f"{name}-test.parquet")


def make(
    folder: Path,
    names: Sequence[str],
    has: Array,
    settings: Mapping[str, Sequence[Array]],
    metric: str | None,
    baseline: Array | None = None,
    predictions: bool = True,
) -> Path:
    """A finished run: one trial of the search for each setting, and finals over seeds, {label: what each seed gives each text}.

    Validation and test are the same texts. Without `metric` the records are as they were before tasks had one.
    """
    records = record.Records(folder / "records.jsonl", "measured")
    records.append("study", status="started")
    about = {} if metric is None else {"metric": metric, "labels": list(names)}
    records.append("plan", trials=len(settings), splits={"train": 9, "validation": len(has), "test": len(has)}, **about)
    if baseline is not None:
        for split in ("validation", "test"):
            records.append("baseline", split=split, recipe="bag of words", **scores(has, baseline, names))
        if predictions:
            keep(folder, record_fields.BAG_OF_WORDS, has, baseline)
    count = 0
    for number, (label, seeds) in enumerate(settings.items()):
        for seed, given in enumerate([seeds[0], *seeds]):
            phase, trial = ("search", f"t{number:03d}") if seed == 0 else ("final", f"f{count:02d}")
            count += phase == "final"
            found = scores(has, given, names)
            mine = {"trial": trial, "phase": phase, "setting": label, "seed": max(0, seed - 1)}
            params = {"finetune.xi": 0.9 + number / 100}
            rated = {"error_rate_percent": found["error_rate_percent"]}
            if metric is not None:
                value = found["error_rate_percent"] if "accuracy" in metric or metric == "error_rate" else 100 - 100 * found[metric]
                rated |= {"metric": metric, "objective_percent": value}
            records.append("trial", **mine, status="started", params=params, label=label, stage_ids=[trial])
            where = {"stage": "finetune", "stage_name": "finetune", "stage_id": trial, "epoch": 1.0, "step": 1}
            records.append("evaluation", **mine, **where, split="validation", **found)
            records.append("trial", **mine, status="complete", params=params, label=label, stage_ids=[trial], tokens=10, **rated)
            if phase == "final":
                records.append("evaluation", **mine, stage="test", stage_id=f"test-{trial}", split="test", **found)
                if predictions:
                    keep(folder, trial, has, given)
    records.append("study", status="finished")
    return folder
