"""Training those word embeddings alone whose pieces occur in the training texts.

AdamW gives every row of the table the same treatment, but to a row without gradient it does nothing beside weight decay: moments of
zero move nothing. So a stage keeps gradients, moments and saved states of the occurring rows only, and works out the others when
they are asked for. For a few hundred short texts that is nine tenths of the table, and half of a small encoder; of encoders for a
hundred languages it is most of the memory that training takes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTHWHILE = 0.5
"""Share of the vocabulary up to which the occurring pieces are trained apart."""


class OccurringEmbedding(nn.Module):
    """A word embedding whose trained rows are those of the occurring pieces, and one witness.

    The witness is a row of ones that is never looked up in training. AdamW decays it as it would any row without gradient, so it
    holds the factor by which all of them have shrunk, and is saved and resumed with the weights.
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
        """Embeddings [..., H] of pieces [...]; outside training of any piece."""
        place = self.place[ids]
        found = F.embedding(place, self.weight, self.padding_idx)
        if self.training:
            return found
        is_witness = (place == len(self.weight) - 1).unsqueeze(-1)
        return torch.where(is_witness, found * F.embedding(ids, self.others), found)

    def table(self) -> Tensor:
        """The whole table [V, H] as plain training would have left it."""
        is_witness = (self.place == len(self.weight) - 1).unsqueeze(-1)
        found = self.weight.detach()[self.place]
        return torch.where(is_witness, found * self.others, found)


def train_occurring(encoder: nn.Module, ids: np.ndarray) -> None:
    """Keep apart the word embeddings of pieces that are not among `ids`, where that is worthwhile and the table is a plain one."""
    table = encoder.get_input_embeddings()  # type: ignore[operator]
    plain = type(table) is nn.Embedding and table.max_norm is None and not (table.scale_grad_by_freq or table.sparse)
    if not plain or sum(each is table.weight for each in encoder.parameters()) != 1:
        return
    if table.padding_idx is not None:
        ids = np.append(ids, table.padding_idx)
    occurring = np.unique(ids).astype(np.int64)
    if len(occurring) <= WORTHWHILE * table.num_embeddings:
        apart = OccurringEmbedding(table, torch.from_numpy(occurring)).train(table.training)
        encoder.set_input_embeddings(apart)  # type: ignore[operator]
