"""Bag-of-words baseline: TF-IDF of words and word pairs with logistic regression.

If most letters are of scripts without spaces, n-grams of one to four characters replace words.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainables.data.scripts import CHARACTERS, SIGN, WORD, mostly_spaceless, simple, words
from trainables.data.splits import Split, TaskData
from trainables.scores.metrics import label_scores, ranking_scores, scores, thresholds_of

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse regularisation strengths to try, the simplest model first."""
FEATURES = 500_000
"""Largest number of features, the most frequent ones: bounds the memory on large sets."""


def error_rate(row: Mapping[str, Any]) -> float:
    """Return the error rate of a row of scores, percent."""
    return float(row["error_rate_percent"])


def bag_of_words(
    data: TaskData, worse: Callable[[Mapping[str, Any]], float | None] = error_rate, few: Split | None = None
) -> dict[str, Any]:
    """Fit on train with the strength that is best on validation, then on both for the test. Deterministic.

    `worse` maps scores to a loss to minimise; ties are decided by the smaller cross-entropy. The encoders of a study do not train
    on the validation split; the baseline may, so that it is as strong as possible. If the encoders use only `few` texts of the
    training split, the baseline uses only these.

    Returns c, train_examples (number of texts of the fit for the test), seconds, scores and loss for `validation` and `test`, and
    for both splits `predictions` [n] (in a multi-label task 0/1 [n, labels], by the threshold that is best on validation) and
    `probabilities` [n, classes]. test is None for a task without a test split. The test split is read once.
    """
    began = time.perf_counter()
    tried = []
    train = data.train if few is None else few
    for strength, probabilities in zip(STRENGTHS, _predict(train, data.validation, STRENGTHS, len(data.labels)), strict=True):
        thresholds = None if data.validation.labels.ndim == 1 else thresholds_of("one", data.validation.labels, probabilities)
        scored = _measure(probabilities, data.validation, data.labels, thresholds)
        tried.append((worse(scored), scored["loss"], strength, probabilities, thresholds))
    _, _, strength, probabilities, thresholds = min(tried, key=lambda fit: fit[:3])
    result = {"validation": probabilities}
    if few is None:
        train = Split(train.texts + data.validation.texts, np.concatenate((train.labels, data.validation.labels)))
    if len(data.test):
        result["test"] = _predict(train, data.test, (strength,), len(data.labels))[0]
    return {
        "c": strength,
        "words": words_taken(train.texts),
        "train_examples": len(train.labels),
        "validation": _measure(result["validation"], data.validation, data.labels, thresholds),
        "test": _measure(result["test"], data.test, data.labels, thresholds) if "test" in result else None,
        "predictions": {split: _decided(scored, thresholds) for split, scored in result.items()},
        "probabilities": result,
        "seconds": time.perf_counter() - began,
    }


def words_taken(texts: Sequence[str]) -> str:
    """Return the unit of the features for these training texts: words, characters or signs."""
    if not any(map(words, texts)):
        return "signs"
    return "characters" if mostly_spaceless(texts) else "words"


def _predict(train: Split, other: Split, strengths: tuple[float, ...], classes: int) -> list[np.ndarray[Any, Any]]:
    """Probabilities [n, classes] of `other` for every strength; a class that training lacks has probability 0."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    token = WORD if any(map(words, train.texts)) else SIGN  # single signs if no training text has a word (only emoji)
    in_a_row = CHARACTERS if mostly_spaceless(train.texts) else (1, 2)
    how = {"preprocessor": simple, "token_pattern": token, "ngram_range": in_a_row, "max_features": FEATURES}
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **how)
    features, others = vectorizer.fit_transform(train.texts), vectorizer.transform(other.texts)
    predicted = []
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # slow convergence, which validation judges; labels without any text
            if train.labels.ndim > 1:
                predicted.append(OneVsRestClassifier(model).fit(features, train.labels).predict_proba(others))
                continue
            model.fit(features, train.labels)
        predicted.append(np.zeros((len(other), classes)))
        predicted[-1][:, model.classes_] = model.predict_proba(others)
    return predicted


def _decided(probabilities: np.ndarray[Any, Any], thresholds: Sequence[float] | None) -> np.ndarray[Any, Any]:
    """The most probable class of every text [n], or 0/1 for every label [n, labels]."""
    return probabilities.argmax(axis=1) if thresholds is None else (probabilities >= np.array(thresholds)).astype(np.int64)


def _measure(
    probabilities: np.ndarray[Any, Any], split: Split, names: Sequence[str], thresholds: Sequence[float] | None
) -> dict[str, Any]:
    ranked = ranking_scores(split.labels, probabilities)
    if thresholds is not None:
        right = np.where(split.labels > 0, probabilities, 1 - probabilities)  # probability of the right decision
        measured = label_scores(split.labels, _decided(probabilities, thresholds)) | ranked
        measured["f1_by_label"] = dict(zip(names, measured.pop("f1").tolist(), strict=True))
        return {"loss": float(-np.log(np.maximum(right, 1e-12)).mean()), **measured, "thresholds": list(thresholds)}
    loss = float(-np.log(np.maximum(probabilities[np.arange(len(split)), split.labels], 1e-12)).mean())
    return {"loss": loss, **scores(split.labels, _decided(probabilities, None), probabilities.shape[1]), **ranked}
