"""The marker of selective masking (Gu et al. 2020): it classifies every piece as important to the task or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.batches.pack import Batch
from trainables.encoder.dropout import Dropout
from trainables.encoder.load import Base, draw_initial, fresh_encoder, hidden_states


class Marker(nn.Module):
    """An encoder with a linear layer over every piece."""

    notices: tuple[str, ...] = ()

    def __init__(self, encoder: nn.Module, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = Dropout(dropout)
        self.marks = nn.Linear(hidden_size, 2)  # a name of its own, so that no head of an earlier stage is loaded into it

    def forward(self, batch: Batch) -> Tensor:
        """Logits [T, 2] of all pieces, special tokens included; [m, 2] for the `masked_index` of a batch, if it has one."""
        hidden = self.dropout(hidden_states(self.encoder, batch))  # [T, H]
        if batch.masked_index is not None:
            hidden = hidden.index_select(0, batch.masked_index)
        logits: Tensor = self.marks(hidden)
        return logits


def marker(base: Base, dropout: float, seed: int) -> Marker:
    """A marker on a copy of the base's encoder; its head is initialised from `seed`."""
    model = Marker(fresh_encoder(base, dropout), base.hidden_size, dropout)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.marks.named_parameters():
            draw_initial(name, parameter, base.config, generator)
    return model


def marker_loss(model: nn.Module, batch: Batch, weights: Tensor) -> Tensor:
    """Cross-entropy of a micro-batch, summed over its pieces with the weights [2] of their classes."""
    assert batch.masked_targets is not None
    logits = model(batch).float()
    return F.cross_entropy(logits, batch.masked_targets, weights, reduction="sum")
