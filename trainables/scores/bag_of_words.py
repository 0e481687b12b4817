"""The bag of words that every encoder has to beat: TF-IDF of words and word pairs with logistic regression.

Where most letters are of scripts without spaces, one to four characters in a row stand for them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainables.data.scripts import CHARACTERS, SIGN, WORD, mostly_spaceless, simple, words
from trainables.data.splits import Split, TaskData
from trainables.scores.metrics import label_scores, scores, thresholds_of

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse regularisation strengths that are tried, the simplest model first."""
FEATURES = 500_000
"""Words and pairs that are kept, the most frequent ones: bounds the memory on large sets."""


def error_rate(found: Mapping[str, Any]) -> float:
    """Of scores, in percent."""
    return float(found["error_rate_percent"])


def bag_of_words(
    data: TaskData, worse: Callable[[Mapping[str, Any]], float | None] = error_rate, few: Split | None = None
) -> dict[str, Any]:
    """Fit on train with the strength that is best on validation, then on both for the test.

    `worse` says of scores how bad they are; of equal ones the smaller loss decides.

    The encoders of a study do not learn from the validation split: the baseline may, so that nobody finds it weak. Where they learn
    from `few` texts of the training split it has these and no others. Returns c, train_examples (texts it is fit on for the test),
    seconds, for `validation` and `test` the scores and loss, and of both splits `predictions` [n] (of a multi-label task 0/1
    [n, labels], by the threshold that is best on validation) and `probabilities` [n, classes]; test is None for a task without a
    test split, which is read once. Deterministic.
    """
    began = time.perf_counter()
    tried = []
    train = data.train if few is None else few
    for strength, probabilities in zip(STRENGTHS, _predict(train, data.validation, STRENGTHS, len(data.labels)), strict=True):
        thresholds = None if data.validation.labels.ndim == 1 else thresholds_of("one", data.validation.labels, probabilities)
        found = _measure(probabilities, data.validation, data.labels, thresholds)
        tried.append((worse(found), found["loss"], strength, probabilities, thresholds))
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
        "predictions": {split: _given(found, thresholds) for split, found in result.items()},
        "probabilities": result,
        "seconds": time.perf_counter() - began,
    }


def words_taken(texts: Sequence[str]) -> str:
    """What the bag of words looks at in these training texts: words, characters or signs."""
    if not any(map(words, texts)):
        return "signs"
    return "characters" if mostly_spaceless(texts) else "words"


def _predict(train: Split, other: Split, strengths: tuple[float, ...], classes: int) -> list[np.ndarray[Any, Any]]:
    """Probabilities [n, classes] of `other` for every strength; a class that training lacks has probability 0."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    token = WORD if any(map(words, train.texts)) else SIGN  # single signs where no training text holds a word (emoji only)
    in_a_row = CHARACTERS if mostly_spaceless(train.texts) else (1, 2)
    how = {"preprocessor": simple, "token_pattern": token, "ngram_range": in_a_row, "max_features": FEATURES}
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **how)
    features, others = vectorizer.fit_transform(train.texts), vectorizer.transform(other.texts)
    found = []
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of slow convergence: validation judges what was reached; of labels that no text has
            if train.labels.ndim > 1:
                found.append(OneVsRestClassifier(model).fit(features, train.labels).predict_proba(others))
                continue
            model.fit(features, train.labels)
        found.append(np.zeros((len(other), classes)))
        found[-1][:, model.classes_] = model.predict_proba(others)
    return found


def _given(probabilities: np.ndarray[Any, Any], thresholds: Sequence[float] | None) -> np.ndarray[Any, Any]:
    """The likeliest class of each text, or 0/1 for each label."""
    return probabilities.argmax(axis=1) if thresholds is None else (probabilities >= np.array(thresholds)).astype(np.int64)


def _measure(
    probabilities: np.ndarray[Any, Any], split: Split, names: Sequence[str], thresholds: Sequence[float] | None
) -> dict[str, Any]:
    if thresholds is not None:
        right = np.where(split.labels > 0, probabilities, 1 - probabilities)  # of each decision
        found = label_scores(split.labels, _given(probabilities, thresholds))
        found["f1_by_label"] = dict(zip(names, found.pop("f1").tolist(), strict=True))
        return {"loss": float(-np.log(np.maximum(right, 1e-12)).mean()), **found, "thresholds": list(thresholds)}
    loss = float(-np.log(np.maximum(probabilities[np.arange(len(split)), split.labels], 1e-12)).mean())
    return {"loss": loss, **scores(split.labels, _given(probabilities, None), probabilities.shape[1])}
