"""Selective masking (Gu et al. 2020, 'Train No Evil'): scores of words, the job of the marker, logits of a corpus.

The words of a text s of class y that the scorer classifies correctly are processed in order, with a buffer s' that is empty at
first: S(w) = P(y | s) - P(y | s' + w). A word with S(w) < delta is important; the other words are appended to s'. The marker learns
which pieces belong to important words, and predicts them in texts without labels.

Steps: `Marks` of `settings/stages.py` has the settings; `marks_of` of `settings/stage_rules.py` finds the marks of a stage.
`kinds.py` makes two nodes of a `marks` stage: its scorer, which is a fine-tuning, and its marker. `scores` scores words with the
scorer, `job` trains the marker (its model: `heads/marker.py`), `logits` applies it to a corpus. `_by_marks` of `pretrain.py` masks
pieces chosen by `marked` or `as_many` of `batches/masking.py`. `study/review/marks.py` shows the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from trainables.batches.masking import chunks
from trainables.batches.pack import Example
from trainables.batches.special_tokens import Ids
from trainables.batches.tokenise import Pieces
from trainables.data.corpus import Corpus
from trainables.data.splits import TaskData
from trainables.encoder.load import Base, load_encoder_weights
from trainables.encoder.occurring_embedding import train_occurring
from trainables.heads.marker import marker, marker_loss
from trainables.scores.evaluate import outputs, predict
from trainables.settings.errors import ConfigError
from trainables.settings.stages import Marks
from trainables.stages import finetune
from trainables.stages.inputs import held_out, scored_texts
from trainables.stages.node import logits_id, scores_id
from trainables.stages.state_files import with_weights
from trainables.store.artifact_files import CHOSEN, MARKS
from trainables.store.store import Store
from trainables.training import optimizer
from trainables.training.derived import once
from trainables.training.loop import Job, Row
from trainables.training.runtime import Runtime

SCORES, LOGITS = "scores.parquet", "logits.safetensors"
SAMPLE = 200
"""Number of sequences, the first of the corpus, that are kept as examples of masking."""
BLOCK = 4096
"""Number of sequences whose logits are in memory at a time."""
Text = tuple[Ids, Ids]
"""Pieces [n] and the numbers [n] of their words, ascending."""


def scores(stage: Marks, scorer: str, base: Base, data: TaskData, pieces: Pieces, store: Store, runtime: Runtime) -> Path:
    """The file of the words' scores from which a marker learns, for a task and the pieces of its training texts.

    The artifact `scorer` computes them once for all markers with this threshold.
    """

    def make(folder: Path) -> dict[str, Path]:
        model = with_weights(finetune.model_of(stage.scorer, base, len(data.labels), stage.seed), scorer, store, runtime)
        return write_scores(folder, stage, model, base, pieces, data.train.labels, scored_texts(stage, data), runtime)

    manifest = {"kind": "scores", "parent": scorer}
    return once(store, runtime.world, scores_id(stage, scorer), manifest, SCORES, make)


def beginnings(pieces: Pieces, places: Sequence[int], budget: int) -> list[Text]:
    """The first pieces of the texts at these indices, at most `budget` of each."""
    return [(pieces[i][:budget], pieces.words(i, 0, budget)) for i in places]


def word_scores(
    model: nn.Module, base: Base, texts: Sequence[Text], labels: Sequence[int], threshold: float, runtime: Runtime
) -> list[np.ndarray | None]:
    """S of every word of every text, float64 [words]; None for a text without words or one that is not classified correctly.

    The texts are processed in parallel, word by word, since only the words of one text depend on each other.
    """
    words = [split_words(text) for text in texts]
    whole = _probabilities(model, base, [ids for ids, _ in texts], runtime)
    right = [i for i, label in enumerate(labels) if words[i] and whole[i].argmax() == label]
    scores: dict[int, list[float]] = {i: [] for i in right}
    kept = {i: words[i][0][:0] for i in right}
    for place in range(max((len(words[i]) for i in right), default=0)):
        left = [i for i in right if place < len(words[i])]
        tried = [np.concatenate((kept[i], words[i][place])) for i in left]
        for i, ids, reduced in zip(left, tried, _probabilities(model, base, tried, runtime), strict=True):
            score = float(whole[i][labels[i]] - reduced[labels[i]])
            scores[i].append(score)
            if score >= threshold:
                kept[i] = ids
    return [np.array(scores[i]) if i in scores else None for i in range(len(texts))]


def split_words(text: Text) -> list[Ids]:
    """The pieces of each word."""
    ids, numbers = text
    return np.split(ids, np.flatnonzero(np.diff(numbers)) + 1) if len(ids) else []


def _probabilities(model: nn.Module, base: Base, texts: Sequence[Ids], runtime: Runtime) -> np.ndarray:
    """Probabilities of the classes, float64 [texts, classes]."""
    if not texts:
        return np.zeros((0, 0))
    logits = predict(model, base, [Example(base.special.wrap(ids)) for ids in texts], runtime)
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def write_scores(
    folder: Path,
    stage: Marks,
    scorer: nn.Module,
    base: Base,
    pieces: Pieces,
    labels: np.ndarray,
    places: np.ndarray,
    runtime: Runtime,
) -> dict[str, Path]:
    """Score the words of the texts at these indices, in this order; returns {file: its path}, with a row per text with scores.

    Raises ConfigError if fewer than two texts have scores.
    """
    texts = beginnings(pieces, places.tolist(), stage.max_length - base.special.count)
    all_scores = word_scores(scorer, base, texts, labels[places].tolist(), stage.threshold, runtime)
    scored = zip(places.tolist(), texts, all_scores, strict=True)
    rows = [(place, text, scores) for place, text, scores in scored if scores is not None]
    if len(rows) < 2:
        how = "train it longer (scorer_epochs, scorer_learning_rate) or score more texts (scored_texts)"
        raise ConfigError(
            [f"{stage.name}: the scorer classifies {len(rows)} of {len(texts)} texts correctly, marks need two; {how}"]
        )
    words = [spelled(base.tokenizer, text) for _, text, _ in rows]
    path = folder / SCORES
    pq.write_table(pa.table({"index": [row[0] for row in rows], "words": words, "scores": [row[2] for row in rows]}), path)
    return {SCORES: path}


def spelled(tokenizer: Any, text: Text) -> list[str]:
    """The words of a text as the tokenizer writes them."""
    return [_word(tokenizer, tuple(ids.tolist())) for ids in split_words(text)]


@lru_cache(maxsize=1 << 16)  # most words occur many times
def _word(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids))).strip()


def important(words: Sequence[str], scores: Sequence[float], stage: Marks) -> list[bool]:
    """Whether each word of a text is marked: words with a low score that are not stop words are."""
    stop = _stop_words() if stage.stop_words == "english" else frozenset()
    return [score < stage.threshold and word.lower() not in stop for word, score in zip(words, scores, strict=True)]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def job(stage: Marks, base: Base, parent: Path | None, pieces: Pieces, scores: Path, steps: int, runtime: Runtime) -> Job:
    """Train the marker from `base`, or from the weights of `parent`, on the marks that follow from a file of `scores`.

    Raises ConfigError if no word is marked.
    """
    table: dict[str, list[Any]] = pq.read_table(scores).to_pydict()
    table["marked"] = [important(words, scores_, stage) for words, scores_ in zip(table["words"], table["scores"], strict=True)]
    texts = beginnings(pieces, table["index"], stage.max_length - base.special.count)
    examples = [_labelled(base, text, marks) for text, marks in zip(texts, table["marked"], strict=True)]
    if not any(map(any, table["marked"])):
        raise ConfigError([f"{stage.name}: no word of {len(texts)} texts is marked; give a higher threshold, or stop_words none"])
    count = held_out(stage, len(examples))  # the texts are in random order
    dev, train = examples[:count], examples[count:]
    model = marker(base, stage.dropout, stage.seed)
    if parent is not None:
        load_encoder_weights(model, parent)
    train_occurring(model.encoder, np.concatenate([example.ids for example in train]))
    model.to(runtime.device)
    per_epoch, weights = steps // stage.epochs, torch.tensor([1.0, stage.mark_weight])

    @lru_cache(maxsize=2)  # a batch may span two passes
    def order(passed: int) -> np.ndarray:
        return np.random.default_rng((stage.seed, passed)).permutation(len(train))

    def batch(step: int) -> list[Example]:
        # Endless passes, each in its own order; a batch may span two passes.
        positions = range(step * stage.batch_size, (step + 1) * stage.batch_size)
        places = (divmod(position, len(train)) for position in positions)
        return [train[order(passed)[index]] for passed, index in places]

    def evaluate(step: int, model: nn.Module) -> Row:
        row = {"epoch": step // per_epoch, "split": "heldout", "examples": len(dev)}
        return row | mark_scores(*_answers(model, base, dev, runtime))

    def artifact_files(folder: Path) -> dict[str, Path]:
        pq.write_table(pa.table(table), folder / MARKS)
        return {MARKS: folder / MARKS}

    groups = optimizer.parameter_groups(
        model, model.encoder, base.layers, learning_rate=stage.learning_rate, weight_decay=stage.weight_decay
    )
    return Job(
        base=base,
        model=model,
        **optimizer.for_job(stage, groups, steps),
        examples=batch,
        loss=partial(marker_loss, weights=weights.to(runtime.device)),
        weight=lambda batch: sum(float(weights[_classes(example)].sum()) for example in batch),
        evaluate_at=frozenset(range(per_epoch, steps + 1, per_epoch)),
        evaluate=evaluate,
        seed=stage.seed,
        artifact_files=artifact_files,
        best="mark_f1",
    )


def _labelled(base: Base, text: Text, marks: Sequence[bool]) -> Example:
    """A text with the class of each of its pieces: 1 if its word is marked, else 0."""
    ids, numbers = text
    classes = np.array(marks, dtype=np.int64)[numbers - numbers[0]]
    return Example(base.special.wrap(ids), masked=(np.arange(len(ids)) + len(base.special.prefix), classes))


def _classes(example: Example) -> np.ndarray:
    assert example.masked is not None
    return example.masked[1]


def _answers(model: nn.Module, base: Base, examples: Sequence[Example], runtime: Runtime) -> tuple[np.ndarray, np.ndarray]:
    """(classes, predicted classes) of all pieces of labelled texts."""
    texts = [_inner(example.ids, base) for example in examples]
    predicted = [margins > 0 for margins in piece_margins(model, base, texts, runtime)]
    return np.concatenate([_classes(example) for example in examples]), np.concatenate(predicted)


def _inner(ids: np.ndarray, base: Base) -> np.ndarray:
    return ids[len(base.special.prefix) : len(ids) - len(base.special.suffix)]


def mark_scores(classes: np.ndarray, predicted: np.ndarray) -> Row:
    """F1 (0 to 1) of the class important, 0 if it neither occurs nor is predicted, and the predicted share of it in percent."""
    right, both = int((classes * predicted).sum()), int(classes.sum() + predicted.sum())
    return {"mark_f1": 2 * right / max(1, both), "marked_percent": 100 * float(predicted.mean())}


def piece_margins(model: nn.Module, base: Base, texts: Sequence[np.ndarray], runtime: Runtime) -> list[np.ndarray]:
    """The marker's logit of important minus that of not important, for the pieces [n] of each text, special tokens excluded."""
    wrapped = [Example(base.special.wrap(ids)) for ids in texts]
    return [_inner(rows[:, 1] - rows[:, 0], base) for rows in outputs(model, base, wrapped, runtime, of_pieces=True)]


def logits(marks: str, base: Base, corpus: Corpus, pieces: Pieces, store: Store, runtime: Runtime) -> Path:
    """The file of the logits that the marker `marks` gives to the pieces of a corpus, computed once for all stages."""

    def make(folder: Path) -> dict[str, Path]:
        artifact = store.get(marks)
        assert artifact is not None, f"artifact {marks} vanished from the store"
        model = with_weights(marker(base, 0.0, 0), marks, store, runtime)
        return write_logits(folder, model, artifact.manifest["settings"]["max_length"], base, pieces, runtime)

    manifest = {"kind": "logits", "parent": marks}
    return once(store, runtime.world, logits_id(marks, corpus), manifest, LOGITS, make)


def write_logits(folder: Path, model: nn.Module, max_length: int, base: Base, pieces: Pieces, runtime: Runtime) -> dict[str, Path]:
    """Write a trained marker's logits for all pieces of a corpus in their order, float16; returns {file: its path}.

    Pieces that are never predicted have -inf. Long documents are cut into sequences of `max_length`, as in the marker's training.
    """
    sequences, path, blocks = chunks(pieces, max_length - base.special.count), folder / LOGITS, [np.zeros(0, np.float16)]
    for start in range(0, len(sequences), BLOCK):
        texts = [ids for ids, _ in sequences[start : start + BLOCK]]
        margins = np.concatenate(piece_margins(model, base, texts, runtime))
        margins[np.isin(np.concatenate(texts), base.special.reserved)] = -np.inf
        blocks.append(margins.astype(np.float16))
    save_file({"logits": np.concatenate(blocks)}, path)
    return {LOGITS: path}


def write_chosen(folder: Path, base: Base, texts: Iterable[tuple[Text, np.ndarray]]) -> dict[str, Path]:
    """Write the words of the first sequences, and whether each has a piece at a chosen position; returns {file: its path}."""
    words, chosen = [], []
    for text, positions in islice(texts, SAMPLE):
        words.append(spelled(base.tokenizer, text))
        chosen.append(np.isin(np.unique(text[1]), text[1][positions]).tolist())
    pq.write_table(pa.table({"words": words, "marked": chosen}), folder / CHOSEN)
    return {CHOSEN: folder / CHOSEN}


class Logits:
    """The logits of a corpus' pieces, in a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        file: Any = safe_open(str(path), framework="numpy")
        self._values = file.get_slice("logits")

    def __getitem__(self, places: slice) -> np.ndarray:
        """Logits, float32, of a range of pieces of the whole corpus."""
        values: np.ndarray = self._values[places]
        return values.astype(np.float32)

    def any_marked(self, starts: np.ndarray) -> np.ndarray:
        """Whether any piece from a start up to the next one is marked, bool [starts]; `starts` ascend."""
        return np.logical_or.reduceat(self._values[:] > 0, starts) if len(starts) else np.zeros(0, bool)
