"""`model.onnx` in an exported folder, for runtimes without PyTorch: the same logits from padded batches of any size and length.

Only where the head is one of transformers' own, so that the tokenizer of the folder and this file are all that is needed. Needs
the extra `onnx`. The file's metadata hold the labels, whether a text may have several, their thresholds, the temperature, and the
longest sequence.
"""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.export.load import LoadedModel
from trainables.export.plain import TOLERANCE, sample, sides
from trainables.scores.evaluate import probabilities
from trainables.settings.errors import ConfigError

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta")
"""Families that torch's exporter can do. It fails for XLNet and Longformer; the others have no plain head."""


def check(family: str) -> None:
    """Raise ConfigError if a package is missing, or if models of this family are not exported."""
    faults = []
    if absent := [name for name in PACKAGES if find_spec(name) is None]:
        faults.append(f"--format onnx: needs {', '.join(absent)}: pip install 'finetune-study[onnx]'")
    if family not in FAMILIES:
        faults.append(f"--format onnx: the family {family} is not exported; those that are: {', '.join(FAMILIES)}")
    if faults:
        raise ConfigError(faults)


def write(theirs: nn.Module, tokenizer: Any, model: LoadedModel, path: Path) -> None:
    """Write transformers' classifier that computes the same as `model`, and compare the two by onnxruntime.

    Raises ConfigError if torch's exporter does not know a part of it, or if the file gives other probabilities.
    """
    import onnxruntime

    entries = sample(model)
    with _silent():
        try:
            _export(theirs, _inputs(theirs, tokenizer, entries[:2]), path, _metadata(model))
        except torch.onnx.OnnxExporterError as error:
            fault = " ".join(str(error.__cause__ or error).split())[:300]
            raise ConfigError([f"--format onnx: torch cannot export {type(theirs).__name__}: {fault}"]) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    exact = model.in_float32()
    worst = 0.0
    for part in (entries[:1], entries[1:], entries):
        (logits,) = session.run(["logits"], {name: value.numpy() for name, value in _inputs(theirs, tokenizer, part).items()})
        found, ours = (probabilities(each, model.multi_label) for each in (logits, exact.logits(part)))
        worst = max(worst, float(np.abs(found - ours).max()))
    if worst > TOLERANCE:
        raise ConfigError([f"--format onnx: onnxruntime gives other probabilities than PyTorch: they differ by {worst:g}"])


def _export(theirs: nn.Module, inputs: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    shapes = {name: {0: "batch", 1: "length"} for name in inputs}
    made = torch.onnx.export(
        theirs, (), kwargs=dict(inputs), dynamo=True, dynamic_shapes=shapes, output_names=["logits"], verbose=False
    )
    assert made is not None
    made.model.metadata_props.update(metadata)
    made.save(path)


def _inputs(theirs: nn.Module, tokenizer: Any, entries: list[Any]) -> dict[str, Tensor]:
    """What the model takes of what the tokenizer makes of some texts or pairs: a padded batch."""
    columns = [list(column) for column in zip(*map(sides, entries), strict=True)]
    encoded = tokenizer(*columns, padding=True, return_tensors="pt")
    return {name: encoded[name] for name in inspect.signature(theirs.forward).parameters if name in encoded}


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
