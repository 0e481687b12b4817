"""Scores of predicted classes, and of predicted sets of labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Classes = np.ndarray[Any, Any]


def scores(labels: Classes, predictions: Classes, classes: int) -> dict[str, float | int]:
    """error_rate_percent, macro_f1, micro_f1 (both 0..1), mcc (-1..1), examples; labels and predictions [n] in 0..classes-1.

    macro_f1 is the mean over the classes that occur in labels or predictions, as scikit-learn has it; micro_f1 of a single-label
    task is its accuracy; mcc is Matthews' coefficient for several classes (Gorodkin 2004), 0 where either side has one class only.
    Raises ValueError for no examples, unequal lengths and classes out of range.
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
    drawn, given = confusion.sum(axis=1) / len(labels), confusion.sum(axis=0) / len(labels)
    spread = math.sqrt((1 - float(drawn @ drawn)) * (1 - float(given @ given)))
    return {
        "error_rate_percent": 100 * float((labels != predictions).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": accuracy,
        "mcc": (accuracy - float(drawn @ given)) / spread if spread else 0.0,
        "examples": len(labels),
    }


def label_scores(has: Classes, given: Classes) -> dict[str, Any]:
    """Scores of a multi-label task, for 0/1 arrays [n, labels]: the labels that texts have, and those that they are given.

    error_rate_percent is the share of texts whose set of labels is not exactly right (100 less the subset accuracy), micro_f1 and
    macro_f1 (0..1) are over labels; f1 [labels] of each, 0 where a label neither occurs nor is given, as in scikit-learn. Raises
    ValueError for no examples and unequal shapes.
    """
    has, given = np.asarray(has, dtype=bool), np.asarray(given, dtype=bool)
    if has.shape != given.shape or not len(has):
        raise ValueError(f"{has.shape} labels, {given.shape} predictions")
    right, both = (has & given).sum(axis=0), has.sum(axis=0) + given.sum(axis=0)  # TP and 2 TP + FP + FN
    f1 = 2 * right / np.maximum(both, 1)
    return {
        "error_rate_percent": 100 * float((has != given).any(axis=1).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * right.sum() / max(1, both.sum())),
        "examples": len(has),
        "f1": f1,
    }


def best_threshold(has: Classes, probabilities: Classes) -> float:
    """The probability from which on to give labels so that the F1 of all decisions together is largest; .5 where no text has any.

    Halfway between two probabilities that occur, or below the smallest. `has` and `probabilities` are of one shape.
    """
    order = np.argsort(-probabilities.ravel(), kind="stable")
    sorted_, right = probabilities.ravel()[order], np.cumsum(has.ravel()[order])
    if not len(order) or not right[-1]:
        return 0.5
    f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
    f1[:-1][sorted_[:-1] == sorted_[1:]] = -1.0  # equal ones are given together
    best = int(f1.argmax())
    below = sorted_[best + 1] if best + 1 < len(order) else 0.0
    return float((sorted_[best] + below) / 2)


def thresholds_of(how: str, has: Classes, probabilities: Classes) -> list[float]:
    """For each label [n, labels]: `half`, the best `one` for all, or the best `per-label`."""
    labels = has.shape[1]
    if how == "per-label":
        return [best_threshold(has[:, i], probabilities[:, i]) for i in range(labels)]
    return [0.5 if how == "half" else best_threshold(has, probabilities)] * labels
