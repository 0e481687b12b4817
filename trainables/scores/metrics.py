"""Scores of predicted classes, and of predicted sets of labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Classes = np.ndarray[Any, Any]


def scores(labels: Classes, predictions: Classes, classes: int) -> dict[str, float | int]:
    """Return error_rate_percent, macro_f1, micro_f1 (both 0..1), mcc (-1..1) and examples; labels, predictions [n] in 0..classes-1.

    macro_f1 is the mean over the classes that occur in labels or predictions, as in scikit-learn; micro_f1 of a single-label
    task is its accuracy; mcc is Matthews' coefficient for several classes (Gorodkin 2004), 0 if labels or predictions have only one
    class.
    Raises ValueError without examples, for unequal lengths and for classes out of range.
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
    label_shares, predicted_shares = confusion.sum(axis=1) / len(labels), confusion.sum(axis=0) / len(labels)
    spread = math.sqrt((1 - float(label_shares @ label_shares)) * (1 - float(predicted_shares @ predicted_shares)))
    return {
        "error_rate_percent": 100 * float((labels != predictions).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": accuracy,
        "mcc": (accuracy - float(label_shares @ predicted_shares)) / spread if spread else 0.0,
        "examples": len(labels),
    }


def label_scores(has: Classes, predicted: Classes) -> dict[str, Any]:
    """Return the scores of a multi-label task; `has` (true labels) and `predicted` are 0/1 arrays [n, labels].

    error_rate_percent is the share of texts whose set of labels is not exactly right (100 minus the subset accuracy); micro_f1 and
    macro_f1 (0..1) are over labels; f1 [labels] holds the F1 of every label, 0 for a label that neither occurs nor is predicted, as
    in scikit-learn. Raises ValueError without examples and for unequal shapes.
    """
    has, predicted = np.asarray(has, dtype=bool), np.asarray(predicted, dtype=bool)
    if has.shape != predicted.shape or not len(has):
        raise ValueError(f"{has.shape} labels, {predicted.shape} predictions")
    right, both = (has & predicted).sum(axis=0), has.sum(axis=0) + predicted.sum(axis=0)  # TP and 2 TP + FP + FN
    f1 = 2 * right / np.maximum(both, 1)
    return {
        "error_rate_percent": 100 * float((has != predicted).any(axis=1).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * right.sum() / max(1, both.sum())),
        "examples": len(has),
        "f1": f1,
    }


def ranking_scores(has: Classes, probabilities: Classes) -> dict[str, float]:
    """Return roc_auc and average_precision (0..1) of probabilities [n, classes]; `has` are classes [n], or 0/1 [n, classes].

    With two classes they are of the second one; with more, and in a multi-label task, the mean over the classes that some texts
    have and others lack, each against the rest. Both are as in scikit-learn. Without such a class roc_auc is .5, as for random
    ranks, and average_precision 0. Probabilities are compared in float32, the precision in which predictions are stored.
    """
    probabilities = np.asarray(probabilities, dtype=np.float32)
    several, classes = np.ndim(has) > 1, probabilities.shape[1]
    columns = range(classes) if several or classes != 2 else (1,)
    both = [_ranking(has[:, c] if several else has == c, probabilities[:, c]) for c in columns]
    known = np.array([pair for pair in both if pair is not None])
    roc_auc, average_precision = known.mean(axis=0).tolist() if len(known) else (0.5, 0.0)
    return {"roc_auc": roc_auc, "average_precision": average_precision}


def _ranking(has: Classes, probabilities: Classes) -> tuple[float, float] | None:
    """(area under the ROC curve, average precision) of one class [n]; None if all texts have it or none has."""
    _, place = np.unique(-probabilities, return_inverse=True)  # equal probabilities share a place, the highest is first
    right, texts = np.bincount(place, weights=has), np.bincount(place)
    positives, negatives = right.sum(), len(has) - right.sum()
    if not positives * negatives:
        return None
    wrong = texts - right
    area = float((right * (negatives - np.cumsum(wrong) + wrong / 2)).sum() / (positives * negatives))
    return area, float((right * np.cumsum(right) / np.cumsum(texts)).sum() / positives)


def best_threshold(has: Classes, probabilities: Classes) -> float:
    """Return the threshold on probabilities with the largest F1 over all decisions together; .5 if no text has a label.

    It lies halfway between two probabilities that occur, or below the smallest. `has` and `probabilities` have the same shape.
    """
    order = np.argsort(-probabilities.ravel(), kind="stable")
    sorted_, right = probabilities.ravel()[order], np.cumsum(has.ravel()[order])
    if not len(order) or not right[-1]:
        return 0.5
    f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
    f1[:-1][sorted_[:-1] == sorted_[1:]] = -1.0  # no threshold separates equal probabilities
    best = int(f1.argmax())
    below = sorted_[best + 1] if best + 1 < len(order) else 0.0
    return float((sorted_[best] + below) / 2)


def thresholds_of(how: str, has: Classes, probabilities: Classes) -> list[float]:
    """Return the thresholds [labels]: .5 (`half`), the best common one (`one`), or the best per label (`per-label`)."""
    labels = has.shape[1]
    if how == "per-label":
        return [best_threshold(has[:, i], probabilities[:, i]) for i in range(labels)]
    return [0.5 if how == "half" else best_threshold(has, probabilities)] * labels
