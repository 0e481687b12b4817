"""An exported model as `model.onnx`, for runtimes without PyTorch: the same logits from padded batches of any size and length.

Only for folders whose head is one of transformers' own, so that their tokenizer and this file are all that is needed. Needs the
extra `onnx`. The file's metadata hold the labels, whether a text may have several, their thresholds and the temperature.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from trainables.export import plain
from trainables.export.load import LoadedModel, load
from trainables.settings.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ONNX = "model.onnx"
PACKAGES = ("onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of a logit from transformers' model, which rounds in another order."""


def missing() -> str | None:
    """Fault of packages that are not installed; None if all are."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    return f"--format onnx: needs {' and '.join(absent)}: pip install 'finetune-study[onnx]'" if absent else None


def write_onnx(folder: Path) -> Path:
    """Write `model.onnx` into an exported folder, and compare it with transformers' model by onnxruntime. Returns its path.

    It is written aside and renamed. Raises ConfigError if packages are missing, if transformers has no such head, or if torch's
    exporter does not know a part of the encoder: the folder is then as it was.
    """
    if fault := missing():
        raise ConfigError([fault])
    ours = load(folder, "cpu")
    if not ours.described.plain:
        raise ConfigError([f"--format onnx: transformers has no classifier with this head: {ours.described.reason}"])
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = _inputs(ours, plain.sample(ours)[:2])
    aside = folder / f".{os.getpid()}-{uuid4().hex[:8]}.onnx"
    try:
        _export(theirs, inputs, aside, _metadata(ours))
        _compare(theirs, ours, aside)
        aside.replace(folder / ONNX)
    except OSError as error:
        raise ConfigError([f"{folder / ONNX}: {error.strerror or error}; the rest of the folder is whole"]) from error
    finally:
        aside.unlink(missing_ok=True)
    return folder / ONNX


def _inputs(model: LoadedModel, entries: list[Any]) -> dict[str, torch.Tensor]:
    """What the tokenizer of the folder makes of some texts or pairs: a padded batch."""
    sides = list(zip(*entries, strict=True)) if model.pairs else [entries]
    encoded = model.base.tokenizer(*map(list, sides), padding=True, return_tensors="pt")
    return {name: encoded[name] for name in model.base.tokenizer.model_input_names}


def _metadata(model: LoadedModel) -> dict[str, str]:
    described = model.described
    fields = {
        "labels": list(described.labels),
        "multi_label": described.multi_label,
        "thresholds": described.thresholds,
        "temperature": described.temperature,
        "max_length": described.finetune.max_length,
    }
    return {name: json.dumps(value) for name, value in fields.items()}


def _export(model: nn.Module, inputs: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Raises ConfigError if torch's exporter cannot export the model."""
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _silent():
            program = torch.onnx.export(
                model,
                (),
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=dict.fromkeys(inputs, any_size),
                output_names=["logits"],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        kind = type(model).__name__
        raise ConfigError([f"--format onnx: torch cannot export {kind}: {' '.join(str(error).split())[:300]}"]) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's remarks on operators of packages that are not installed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _compare(theirs: nn.Module, ours: LoadedModel, path: Path) -> None:
    """Raise ConfigError unless onnxruntime gives the logits of transformers' model, for batches of other sizes and lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts = plain.sample(ours)
    for entries in (texts[:1], texts[1:], texts):
        inputs = _inputs(ours, entries)
        with torch.inference_mode():
            wanted = theirs(**inputs).logits.numpy()
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        if (worst := float(np.abs(found - wanted).max())) > TOLERANCE:
            raise ConfigError([f"--format onnx: onnxruntime gives other logits than PyTorch: they differ by {worst:g}"])
