"""Scores of predicted classes, single-label."""

from __future__ import annotations

from typing import Any

import numpy as np

Classes = np.ndarray[Any, Any]


def scores(labels: Classes, predictions: Classes, classes: int) -> dict[str, float | int]:
    """error_rate_percent, macro_f1, micro_f1 (both 0..1) and examples, for labels and predictions [n] in 0..classes-1.

    macro_f1 is the mean over the classes that occur in labels or predictions, as scikit-learn has it; micro_f1 of a single-label
    task is its accuracy. Raises ValueError for no examples, unequal lengths and classes out of range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) != len(predictions) or not len(labels):
        raise ValueError(f"{len(labels)} labels, {len(predictions)} predictions")
    if min(labels.min(), predictions.min()) < 0 or max(labels.max(), predictions.max()) >= classes:
        raise ValueError(f"a class outside 0..{classes - 1}")
    confusion = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)  # [label, prediction]
    right = np.diagonal(confusion)
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * right[occurs > 0] / occurs[occurs > 0]  # 2 TP / (2 TP + FP + FN)
    accuracy = float(right.sum() / len(labels))
    return {
        "error_rate_percent": 100 * float((labels != predictions).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": accuracy,
        "examples": len(labels),
    }
