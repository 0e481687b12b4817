"""Tiny fine-tuned models of every family: random weights that stand for trained ones, large enough that mistakes show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.trainables.families import base
from trainables.encoder.load import model_state
from trainables.export.description import Description
from trainables.export.load import LoadedModel, of_weights
from trainables.settings.stages import Finetune
from trainables.stages.finetune import model_of

LABELS = ("bad", "fair", "good")
THRESHOLDS = (0.5, 0.4, 0.6)


def fine_tuned(kind: str, folder: Path, several: bool = False, pairs: bool = False, **stage: Any) -> LoadedModel:
    """A model of the family with this head; its weights are written below `folder`, as those of an artifact."""
    settings = Finetune(**{"max_length": 64, "head_tokens": 16, "dropout": 0.2} | stage)
    start = base(kind)
    described = Description(
        labels=LABELS,
        multi_label=several,
        pairs=pairs,
        finetune=settings,
        encoder_layers=start.layers,
        precision="float32",
        thresholds=THRESHOLDS if several else None,
        plain=False,
        files={},
    )
    model = model_of(settings, start, len(LABELS), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.mul_(20) if parameter.ndim > 1 else parameter.add_(0.3)
    path = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model_state(model).items()}, path)
    return of_weights(described, start, path, "cpu")
