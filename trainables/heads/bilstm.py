"""A biLSTM with structured self-attention over all pieces of a text (Lin et al. 2017, sections 2.1 and 2.2).

Sun et al. 2019, table 6, use it on a frozen encoder and call it BERT-Feat. For a text with n pieces, special tokens included, and
vectors S [n, W] from the encoder:

    H = biLSTM(S) [n, 2u],   A = softmax(W2 tanh(W1 H')) [r, n],   M = A H [r, 2u],   P = ||A A' - I||^2 (Frobenius)

The flattened M is the vector of the text; the penalty P keeps the r hops different. Neither W1 nor W2 has a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trainables.batches.pack import ends_of, sent


class BiLSTM(nn.Module):
    """Map the vectors of a text's pieces to the vector [r * 2u] of the text."""

    def __init__(self, inputs: int, width: int, attention_width: int, hops: int, penalty: float) -> None:
        """`width` is u, `attention_width` d_a, `hops` r; `penalty` the weight of P."""
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True, bidirectional=True)
        self.inner = nn.Linear(2 * width, attention_width, bias=False)  # W1
        self.hops = nn.Linear(attention_width, hops, bias=False)  # W2
        self.weight = penalty
        self.vector_size = hops * 2 * width

    def draw(self, generator: torch.Generator) -> None:
        """Initialise as torch does: uniform within 1 / sqrt(u) in the LSTM, 1 / sqrt(inputs) in W1 and W2."""
        with torch.no_grad():
            for layer, fan in ((self.lstm, self.lstm.hidden_size), (self.inner, None), (self.hops, None)):
                for parameter in layer.parameters():
                    bound = (fan or parameter.shape[1]) ** -0.5
                    parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, pieces: Tensor, lengths: Sequence[int], ends: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """(vectors [b, r * 2u], weighted penalty summed over the texts) from the pieces [T, W] of texts with these lengths.

        `ends` [b + 1] are those of the texts, on the device of the pieces. Always in float32: under autocast cuDNN would use
        float16.
        """
        ends = sent(ends_of(lengths), pieces.device) if ends is None else ends
        with torch.autocast(pieces.device.type, enabled=False):
            states = self.states(pieces.float(), lengths, ends)  # [b, N, 2u]
            behind = torch.arange(states.shape[1], device=states.device) >= ends.diff()[:, None]  # [b, N]
            scores = self.hops(torch.tanh(self.inner(states)))  # [b, N, r]
            scores = scores.masked_fill(behind.unsqueeze(-1), float("-inf"))
            attention = scores.softmax(1).transpose(1, 2)  # A, [b, r, N]
            vectors = (attention @ states).flatten(1)
            return vectors, self.penalty(attention) if self.weight and self.training else 0.0

    def states(self, pieces: Tensor, lengths: Sequence[int], ends: Tensor) -> Tensor:
        """States of the biLSTM [b, N, 2u], zero after the end of a text; N is the length of the longest.

        torch's own `pack_sequence` would wait for a GPU: it takes the lengths from the host and gives them back.
        """
        texts, longest = len(lengths), max(lengths)
        order, places = _by_time(ends, len(pieces), longest)
        sizes = (np.array(lengths)[:, None] > np.arange(longest)).sum(0)  # texts that have a piece at each time
        packed = PackedSequence(pieces.index_select(0, order), torch.from_numpy(sizes))
        found: Tensor = self.lstm(packed)[0].data  # [T, 2u]
        flat = found.new_zeros(texts * longest, found.shape[1]).index_copy(0, places, found)
        return flat.view(texts, longest, found.shape[1])

    def penalty(self, attention: Tensor) -> Tensor:
        """Weighted P, summed over the texts' A [b, r, N]."""
        overlap = attention @ attention.transpose(1, 2) - torch.eye(attention.shape[1], device=attention.device)
        return self.weight * overlap.square().sum()


def _by_time(ends: Tensor, count: int, longest: int) -> tuple[Tensor, Tensor]:
    """(order [T] of the `count` pieces: all first ones, all second ones ..., each from the longest text to the shortest;
    place [T] of these in rows of `longest` pieces per text). Computed on the device of `ends`."""
    lengths, device = ends.diff(), ends.device
    texts = len(lengths)
    rank = lengths.argsort(descending=True, stable=True).argsort()
    text = torch.repeat_interleave(torch.arange(texts, device=device), lengths, output_size=count)  # [T]
    time = torch.arange(count, device=device) - ends[:-1].index_select(0, text)
    order = (time * texts + rank.index_select(0, text)).argsort()
    return order, (text * longest + time).index_select(0, order)
