"""Load an exported model and predict texts: the same probabilities as in the study that trained it.

model = load("runs/my-reviews/model")
model.predict(["A film to remember."]).labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel

from trainables.batches.pack import Example
from trainables.batches.special_tokens import special_tokens
from trainables.batches.tokenise import tokenised
from trainables.data.splits import Split
from trainables.encoder.check import read_tokenizer
from trainables.encoder.load import POOLER, Base, base_of
from trainables.encoder.weights import read_model
from trainables.export.description import HEAD, Description, read
from trainables.heads.classifier import Classifier
from trainables.scores.evaluate import predict, probabilities
from trainables.settings.errors import ConfigError, near
from trainables.stages.finetune import examples, model_of
from trainables.stages.state_files import copy_weights
from trainables.training.precision import pick_device
from trainables.training.runtime import Runtime
from trainables.training.world import World

Texts = Sequence[str] | Sequence[tuple[str, str]]
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Predicted:
    """Predictions of n texts, in their order."""

    labels: list[str] | list[tuple[str, ...]]
    """The predicted class of every text; in a multi-label task all labels that reach their threshold."""
    probabilities: np.ndarray[Any, np.dtype[np.float32]]
    """float32 [n, classes], in the order of `LoadedModel.labels`."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A fine-tuned model in memory, ready to predict. It never changes."""

    described: Description
    model: Classifier
    base: Base
    """Tokenizer and input format of the encoder."""
    runtime: Runtime

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes or labels, in the order of the logits."""
        return self.described.labels

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.described.multi_label

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return self.described.pairs

    @property
    def temperature(self) -> float:
        """Logits are divided by it before they become probabilities; 1.0: not calibrated."""
        return self.described.temperature

    def predict(self, texts: Texts, *, raw: bool = False) -> Predicted:
        """Predict texts, or pairs of texts, of any number and length. `raw`: probabilities without the temperature.

        The predicted labels do not depend on the temperature. Raises ConfigError as `logits`.
        """
        logits = self.logits(texts)
        tempered = probabilities(logits / (1.0 if raw else self.temperature), self.multi_label)
        return Predicted(self._named(logits), tempered.astype(np.float32))

    def logits(self, texts: Texts) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits [n, classes] float32 of texts, or of pairs of texts, in their order.

        Long texts are computed first, packed without padding, in parts that fit into memory. Raises ConfigError if pairs are
        given to a model of single texts or the reverse, MemoryError if a single text does not fit into memory.
        """
        given: list[Any] = list(texts)
        if fault := self._fault(given):
            raise ConfigError([fault])
        if not given:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        return predict(self.model, self.base, self._examples(given), self.runtime)

    def in_float32(self) -> LoadedModel:
        """The same model computing in float32, whatever the precision of its training."""
        return replace(self, runtime=replace(self.runtime, precision="float32"))

    def _fault(self, texts: Sequence[Any]) -> str | None:
        """What is wrong with the first of the texts that is not of the model's kind."""
        wanted = "a pair of texts, which this model was trained on" if self.pairs else "a text"
        for number, text in enumerate(texts):
            sides = text if isinstance(text, tuple | list) and self.pairs and len(text) == 2 else (text,)
            if len(sides) != 1 + self.pairs or not all(isinstance(side, str) for side in sides):
                shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
                return f"texts: number {number} is {shown}, but it must be {wanted}"
        return None

    def _examples(self, texts: Sequence[Any]) -> list[Example]:
        """The texts as the encoder reads them."""
        pairs = tuple((first, second) for first, second in texts) if self.pairs else None
        split = Split(tuple(map(" ".join, pairs)) if pairs is not None else tuple(texts), np.zeros(len(texts), np.int64), pairs)
        return examples(split, tokenised(split.sides, self.base.tokenizer), self.base, self.described.finetune)

    def _named(self, logits: np.ndarray[Any, Any]) -> Any:
        """The names of what is predicted."""
        if not self.multi_label:
            return [self.labels[place] for place in logits.argmax(axis=1)]
        chosen = probabilities(logits, True) >= np.array(self.described.thresholds)
        return [tuple(self.labels[place] for place in np.flatnonzero(row)) for row in chosen]


def load(folder: str | Path, device: str = "auto") -> LoadedModel:
    """Load an exported model. `device`: auto (a GPU if there is one), cpu or cuda.

    Every file is checked against its digest, weights are read from safetensors only, and no code in the folder runs. Raises
    ConfigError if the folder is no exported model or was altered, and for an unknown or missing device.
    """
    if device not in DEVICES:
        raise ConfigError([f"device: {device!r} given{near(device, DEVICES)}"])
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["device: 'cuda' given, but this machine has no CUDA device that works; give cpu or auto"])
    path = Path(folder).expanduser()
    described = read(path)
    base = _base(path, described)
    model = model_of(described.finetune, base, len(described.labels), seed=0)
    _put_head(model, path)
    return _ready(described, model, replace(base, model=model.encoder), device)


def of_weights(described: Description, base: Base, weights: Path, device: str = "auto") -> LoadedModel:
    """The model of a fine-tuning that started from `base`, with the weights of its artifact.

    Raises KeyError or ValueError for weights of another model.
    """
    model = model_of(described.finetune, base, len(described.labels), seed=0)
    copy_weights(load_file(weights), dict(model.named_parameters()))
    return _ready(described, model, base, device)


def _ready(described: Description, model: Classifier, base: Base, device: str) -> LoadedModel:
    runtime = Runtime(pick_device(device), World(), described.precision)
    model.to(runtime.device).eval().requires_grad_(False)
    return LoadedModel(described, model, base, runtime)


def _base(folder: Path, described: Description) -> Base:
    """The encoder in a folder, as fine-tuning starts from one; it counts the blocks that the encoder had before it was cut."""
    model, missing = read_model(AutoModel, folder)
    if lost := sorted(name for name in missing if not name.startswith(f"{POOLER}.")):
        raise ConfigError([f"{folder}: the weights of {lost[0]} are missing; export the model again"])
    tokenizer = read_tokenizer(folder)
    return replace(base_of(model, special_tokens(tokenizer), tokenizer, folder, missing), layers=described.encoder_layers)


def _put_head(model: Classifier, folder: Path) -> None:
    """Give a classifier the exported parameters of its head."""
    head = {name: value for name, value in model.named_parameters() if not name.startswith("encoder.")}
    try:
        stored = load_file(folder / HEAD)
        if unknown := sorted(stored.keys() - head.keys()):
            raise ValueError(f"{unknown[0]} is no parameter of this head")
        copy_weights(stored, head)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError([f"{folder / HEAD}: does not fit the head that study_model.json describes: {error}"]) from None
