"""Which words matter to a task: selective masking (Gu et al. 2020, 'Train No Evil').

A text s of class y that the scorer classifies correctly is gone through word by word, with a buffer s' that is empty at first:
S(w) = P(y | s) - P(y | s' + w). A word with S(w) < delta is important; the others are kept in s'. The marker learns which pieces
are those of important words, and finds them in texts without labels.

In order: `Marks` of `settings/stages.py` says what may be set, `marks_of` of `settings/stage_rules.py` whose marks a stage is
masked by. `identity.py` makes two nodes of a `marks` stage: its scorer, which is a fine-tuning, and its marker. `scores` lets the
scorer score words, `job` trains the marker (its model: `heads/marker.py`), `logits` lets it mark a corpus. `_by_marks` of
`pretrain.py` masks what `marked` or `as_many` of `batches/masking.py` take of these. `study/review/marks.py` shows the words.
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
from trainables.stages.derived import once
from trainables.stages.identity import logits_id, scores_id
from trainables.stages.inputs import held_out, scored_texts
from trainables.stages.state_files import with_weights
from trainables.store.artifact_files import CHOSEN, MARKS
from trainables.store.store import Store
from trainables.training import optimizer
from trainables.training.loop import Job, Row
from trainables.training.runtime import Runtime

SCORES, LOGITS = "scores.parquet", "logits.safetensors"
SAMPLE = 200
"""Sequences of a corpus that are kept as examples of what was masked, the first."""
BLOCK = 4096
"""Sequences of a corpus whose logits are in memory at a time."""
Text = tuple[Ids, Ids]
"""Pieces [n] and the numbers [n] of their words, ascending."""


def scores(stage: Marks, scorer: str, base: Base, data: TaskData, pieces: Pieces, store: Store, runtime: Runtime) -> Path:
    """The scores that a marker learns from, of a task and the pieces of its training texts.

    They are made once for all markers of this threshold, by the artifact `scorer`.
    """

    def make(folder: Path) -> dict[str, Path]:
        model = with_weights(finetune.model_of(stage.scorer, base, len(data.labels), stage.seed), scorer, store, runtime)
        return write_scores(folder, stage, model, base, pieces, data.train.labels, scored_texts(stage, data), runtime)

    about = {"kind": "scores", "parent": scorer}
    return once(store, runtime.world, scores_id(stage, scorer), about, SCORES, make)


def beginnings(pieces: Pieces, places: Sequence[int], budget: int) -> list[Text]:
    """At most `budget` pieces of each of these texts."""
    return [(pieces[i][:budget], pieces.words(i, 0, budget)) for i in places]


def word_scores(
    model: nn.Module, base: Base, texts: Sequence[Text], labels: Sequence[int], threshold: float, runtime: Runtime
) -> list[np.ndarray | None]:
    """S of every word of every text, float64 [words]; None for a text without words or one that is not classified correctly.

    All texts go through their words side by side, since only the words of one text wait for each other.
    """
    words = [split_words(text) for text in texts]
    whole = _probabilities(model, base, [ids for ids, _ in texts], runtime)
    right = [i for i, label in enumerate(labels) if words[i] and whole[i].argmax() == label]
    scores: dict[int, list[float]] = {i: [] for i in right}
    kept = {i: words[i][0][:0] for i in right}
    for place in range(max((len(words[i]) for i in right), default=0)):
        left = [i for i in right if place < len(words[i])]
        tried = [np.concatenate((kept[i], words[i][place])) for i in left]
        for i, ids, found in zip(left, tried, _probabilities(model, base, tried, runtime), strict=True):
            score = float(whole[i][labels[i]] - found[labels[i]])
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
    """Score the words of the texts at these places, in this order: {file: its path}, with a row for each text that has scores.

    Raises ConfigError where there are fewer than two of them.
    """
    texts = beginnings(pieces, places.tolist(), stage.max_length - base.special.count)
    found = word_scores(scorer, base, texts, labels[places].tolist(), stage.threshold, runtime)
    rows = [(place, text, scores) for place, text, scores in zip(places.tolist(), texts, found, strict=True) if scores is not None]
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


@lru_cache(maxsize=1 << 16)  # the same words come again and again
def _word(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids))).strip()


def important(words: Sequence[str], scores: Sequence[float], stage: Marks) -> list[bool]:
    """Which words of a text are marked: those with a low score that are no stop words."""
    stop = _stop_words() if stage.stop_words == "english" else frozenset()
    return [score < stage.threshold and word.lower() not in stop for word, score in zip(words, scores, strict=True)]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def job(stage: Marks, base: Base, parent: Path | None, pieces: Pieces, scores: Path, steps: int, runtime: Runtime) -> Job:
    """Train the marker on `base`, or on the weights of `parent`, towards the marks that follow from a file of `scores`.

    Raises ConfigError where no word is marked.
    """
    table: dict[str, list[Any]] = pq.read_table(scores).to_pydict()
    table["marked"] = [important(words, found, stage) for words, found in zip(table["words"], table["scores"], strict=True)]
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
        about = {"epoch": step // per_epoch, "split": "heldout", "examples": len(dev)}
        return about | mark_scores(*_answers(model, base, dev, runtime))

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
    """A text with the class of each of its pieces: 1 where its word is marked."""
    ids, numbers = text
    classes = np.array(marks, dtype=np.int64)[numbers - numbers[0]]
    return Example(base.special.wrap(ids), masked=(np.arange(len(ids)) + len(base.special.prefix), classes))


def _classes(example: Example) -> np.ndarray:
    assert example.masked is not None
    return example.masked[1]


def _answers(model: nn.Module, base: Base, examples: Sequence[Example], runtime: Runtime) -> tuple[np.ndarray, np.ndarray]:
    """(classes, predicted classes) of all pieces of labelled texts."""
    texts = [_inner(example.ids, base) for example in examples]
    found = [margins > 0 for margins in piece_margins(model, base, texts, runtime)]
    return np.concatenate([_classes(example) for example in examples]), np.concatenate(found)


def _inner(ids: np.ndarray, base: Base) -> np.ndarray:
    return ids[len(base.special.prefix) : len(ids) - len(base.special.suffix)]


def mark_scores(classes: np.ndarray, found: np.ndarray) -> Row:
    """F1 (0 to 1) of the class important, 0 where it neither occurs nor is found, and its share of the pieces, found in percent."""
    right, both = int((classes * found).sum()), int(classes.sum() + found.sum())
    return {"mark_f1": 2 * right / max(1, both), "marked_percent": 100 * float(found.mean())}


def piece_margins(model: nn.Module, base: Base, texts: Sequence[np.ndarray], runtime: Runtime) -> list[np.ndarray]:
    """The marker's logit of important less that of not important, for the pieces [n] of each text without special tokens."""
    wrapped = [Example(base.special.wrap(ids)) for ids in texts]
    return [_inner(rows[:, 1] - rows[:, 0], base) for rows in outputs(model, base, wrapped, runtime, of_pieces=True)]


def logits(marks: str, base: Base, corpus: Corpus, pieces: Pieces, store: Store, runtime: Runtime) -> Path:
    """The logits that the marker `marks` gives to the pieces of a corpus: made once for all stages that are masked by them."""

    def make(folder: Path) -> dict[str, Path]:
        artifact = store.get(marks)
        assert artifact is not None, f"artifact {marks} vanished from the store"
        model = with_weights(marker(base, 0.0, 0), marks, store, runtime)
        return write_logits(folder, model, artifact.manifest["settings"]["max_length"], base, pieces, runtime)

    about = {"kind": "logits", "parent": marks}
    return once(store, runtime.world, logits_id(marks, corpus), about, LOGITS, make)


def write_logits(folder: Path, model: nn.Module, max_length: int, base: Base, pieces: Pieces, runtime: Runtime) -> dict[str, Path]:
    """Logits of a trained marker for all pieces of a corpus in their order, float16: {file: its path}.

    What can never be predicted has -inf. Long documents are cut into sequences of `max_length`, as the marker saw them.
    """
    sequences, path, found = chunks(pieces, max_length - base.special.count), folder / LOGITS, [np.zeros(0, np.float16)]
    for start in range(0, len(sequences), BLOCK):
        texts = [ids for ids, _ in sequences[start : start + BLOCK]]
        margins = np.concatenate(piece_margins(model, base, texts, runtime))
        margins[np.isin(np.concatenate(texts), base.special.reserved)] = -np.inf
        found.append(margins.astype(np.float16))
    save_file({"logits": np.concatenate(found)}, path)
    return {LOGITS: path}


def write_chosen(folder: Path, base: Base, texts: Iterable[tuple[Text, np.ndarray]]) -> dict[str, Path]:
    """The words of the first of these sequences, and which of them hold a piece at one of its positions: {file: its path}."""
    words, chosen = [], []
    for text, positions in islice(texts, SAMPLE):
        words.append(spelled(base.tokenizer, text))
        chosen.append(np.isin(np.unique(text[1]), text[1][positions]).tolist())
    pq.write_table(pa.table({"words": words, "marked": chosen}), folder / CHOSEN)
    return {CHOSEN: folder / CHOSEN}


class Logits:
    """The logits of a corpus' pieces in a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        file: Any = safe_open(str(path), framework="numpy")
        self._values = file.get_slice("logits")

    def __getitem__(self, places: slice) -> np.ndarray:
        """float32, for pieces counted over the whole corpus."""
        found: np.ndarray = self._values[places]
        return found.astype(np.float32)

    def any_marked(self, starts: np.ndarray) -> np.ndarray:
        """Whether there is a mark among the pieces from each of these places, which ascend, up to the next, bool [starts]."""
        return np.logical_or.reduceat(self._values[:] > 0, starts) if len(starts) else np.zeros(0, bool)
