"""Train only those word embeddings whose pieces occur in the training texts.

A row without gradient only decays under AdamW, since its moments are zero. So a stage keeps gradients, moments and saved states of
the occurring rows only, and computes the others when they are needed. With a few hundred short texts this saves nine tenths of the
table, which is half of a small encoder; for encoders of a hundred languages it saves most of the training memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTHWHILE = 0.5
"""Largest share of the vocabulary for which the occurring pieces are trained separately."""


class OccurringEmbedding(nn.Module):
    """A word embedding whose trained rows are those of the occurring pieces and one witness row.

    The witness is a row of ones that is never looked up in training. AdamW decays it like every row without gradient, so it holds
    the factor by which these have shrunk; it is saved and resumed with the weights.
    """

    others: Tensor
    place: Tensor

    def __init__(self, table: nn.Embedding, occurring: Tensor) -> None:
        super().__init__()
        rows = table.weight.detach()
        self.weight = nn.Parameter(torch.cat([rows[occurring], torch.ones_like(rows[:1])]))  # [occurring + 1, H]
        place = torch.full((len(rows),), len(occurring), device=rows.device)
        place[occurring] = torch.arange(len(occurring), device=rows.device)
        self.register_buffer(
            "place", place, persistent=False
        )  # int64 [V]: row of `weight`, the witness for pieces that do not occur
        self.register_buffer("others", rows, persistent=False)  # [V, H]: the table as it was
        self.padding_idx = None if table.padding_idx is None else int(place[table.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., H] of pieces [...]; in evaluation mode any piece may occur."""
        place = self.place[ids]
        rows = F.embedding(place, self.weight, self.padding_idx)
        if self.training:
            return rows
        is_witness = (place == len(self.weight) - 1).unsqueeze(-1)
        return torch.where(is_witness, rows * F.embedding(ids, self.others), rows)

    def table(self) -> Tensor:
        """The whole table [V, H], as after ordinary training."""
        is_witness = (self.place == len(self.weight) - 1).unsqueeze(-1)
        rows = self.weight.detach()[self.place]
        return torch.where(is_witness, rows * self.others, rows)


def train_occurring(encoder: nn.Module, ids: np.ndarray) -> None:
    """Replace a plain word embedding by an `OccurringEmbedding` of the pieces `ids`, if that is worthwhile."""
    table = encoder.get_input_embeddings()  # type: ignore[operator]
    plain = type(table) is nn.Embedding and table.max_norm is None and not (table.scale_grad_by_freq or table.sparse)
    if not plain or sum(parameter is table.weight for parameter in encoder.parameters()) != 1:
        return
    if table.padding_idx is not None:
        ids = np.append(ids, table.padding_idx)
    occurring = np.unique(ids).astype(np.int64)
    if len(occurring) <= WORTHWHILE * table.num_embeddings:
        apart = OccurringEmbedding(table, torch.from_numpy(occurring)).train(table.training)
        encoder.set_input_embeddings(apart)  # type: ignore[operator]
