"""Classifiers: an encoder, pooling to a vector per text, and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batches.pack import Batch
from trainables.encoder.dropout import Dropout, in_parts
from trainables.encoder.layers import layer_names
from trainables.encoder.load import Base, depth_of, draw_initial, fresh_encoder, layer_states
from trainables.encoder.weights import NEW_POOLER
from trainables.heads.bilstm import BiLSTM


class Classifier(nn.Module):
    """An encoder with a linear layer, or a hidden and a linear layer, over the vector of each text."""

    notices: tuple[str, ...] = ()
    """Notices to the user about the head."""
    penalty: Tensor | float = 0.0
    """Penalty of the last forward pass, summed over its texts, to be added to the loss."""

    def __init__(
        self,
        encoder: nn.Module,
        hidden_size: int,
        classes: int,
        pooling: str,
        dropout: float,
        layers: Sequence[int],
        combine: str,
        fractions: str | None,
        hidden: int | None,
        lstm: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling, self.layers, self.combine = pooling, tuple(layers), combine
        width = hidden_size * (len(self.layers) if combine == "concat" else 1)
        self.pooler = nn.Linear(hidden_size, hidden_size) if pooling == "pooled" else None
        self.reader = BiLSTM(width, **lstm) if pooling == "bilstm" else None
        width = width if self.reader is None else self.reader.vector_size
        self.join = JOINED[fractions](width) if fractions is not None else None
        self.dropout = Dropout(dropout, per_text=True)
        self.classifier: nn.Module = nn.Linear(width, classes)
        if hidden is not None:
            inner, out = nn.Linear(width, hidden), nn.Linear(hidden, classes)
            self.classifier = nn.Sequential(inner, nn.ReLU(), Dropout(dropout, per_text=True), out)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [b, classes] in float32."""
        self.penalty = 0.0  # also frees the graph of the last pass
        if self.join is None:
            vectors = self.vectors(batch)
        else:
            vectors = self.join(torch.cat(in_parts(self.vectors, batch.chunks or (batch,))), batch.counts)
        logits: Tensor = self.classifier(self.dropout(vectors))
        return logits.float()

    def vectors(self, batch: Batch) -> Tensor:
        """Vectors of the texts or fractions, [b, H], or [b, layers * H] for concatenated layers."""
        features = self.features(batch) if batch.features is None else batch.features
        if self.reader is not None:
            features, self.penalty = self.reader(features, batch.lengths, batch.ends)
        return features if self.pooler is None else torch.tanh(self.pooler(features))

    def features(self, batch: Batch) -> Tensor:
        """Pooled outputs of the encoder: one row per text or fraction, or with pooling bilstm per piece, [T, H]."""
        if batch.chunks:
            return torch.cat([self.features(chunk) for chunk in batch.chunks])
        rows = None if self.pooling in ("mean", "bilstm") else batch.pool_index
        states = layer_states(self.encoder, batch, self.layers, rows)  # each [T, H], or [b, H] of the tokens that are read
        if self.pooling == "mean":
            states = [mean_over_texts(state, batch.lengths) for state in states]
        return COMBINED[self.combine](states)


COMBINED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "concat": lambda vectors: torch.cat(vectors, dim=-1),
    "mean": lambda vectors: torch.stack(vectors).mean(0),
    "max": lambda vectors: torch.stack(vectors).amax(0),
}
"""{combine: function that joins the vectors of several layers} (Sun et al. 2019, section 5.3.2)."""


class JoinedBy(nn.Module):
    """Join the vectors of each text's fractions, [fractions, H], by a function over their first dimension: [b, H]."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, vectors: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.stack([self.function(text) for text in vectors.split(list(counts))])


class SelfAttention(nn.Module):
    """Sum of a text's fractions, weighted by softmax over u' tanh(W x) (Lin et al. 2017, with one head)."""

    def __init__(self, width: int, inner: int = 128) -> None:
        super().__init__()
        self.inner, self.score = nn.Linear(width, inner), nn.Linear(inner, 1)

    def forward(self, vectors: Tensor, counts: Sequence[int]) -> Tensor:
        scores = self.score(torch.tanh(self.inner(vectors))).float()  # [fractions, 1]
        texts = zip(vectors.split(list(counts)), scores.split(list(counts)), strict=True)
        return torch.stack([(weight.softmax(0) * text).sum(0) for text, weight in texts])


JOINED: dict[str, Callable[[int], nn.Module]] = {
    "mean": lambda width: JoinedBy(lambda text: text.mean(0)),
    "max": lambda width: JoinedBy(lambda text: text.amax(0)),
    "attention": SelfAttention,
}
"""{fractions: constructor, from the width, of the module that joins a text's fractions} (Sun et al. 2019, section 5.3.1)."""


def mean_over_texts(hidden: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Mean of [T, H] over the tokens of every text: [b, H]."""
    return torch.stack([text.mean(0, dtype=torch.float32) for text in hidden.split(list(lengths))])


def classifier(
    base: Base,
    classes: int,
    pooling: str,
    dropout: float,
    seed: int,
    layers: Sequence[int] = (-1,),
    combine: str = "concat",
    fractions: str | None = None,
    frozen: bool = False,
    hidden: int | None = None,
    head_dropout: float | None = None,
    lstm: Mapping[str, Any] = MappingProxyType({}),
) -> Classifier:
    """A classifier on a copy of the base's encoder; its new parameters depend only on `seed`.

    Blocks above the highest of `layers` are removed. A `frozen` encoder has no dropout: its outputs are fixed features. With
    `hidden` units the head has two layers. `lstm`: arguments of `BiLSTM`, for pooling bilstm.
    """
    depth = depth_of(layers, base.layers)
    # The encoder's output is that of its last layer, after a final norm if it has one.
    wanted = [-1 if layer % base.layers == base.layers - 1 else layer % base.layers for layer in layers]
    encoder = fresh_encoder(base, 0.0 if frozen else dropout, depth)
    dropped = dropout if head_dropout is None else head_dropout
    model = Classifier(encoder, base.hidden_size, classes, pooling, dropped, wanted, combine, fractions, hidden, lstm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("encoder.", "reader.")):
                draw_initial(name, parameter, base.config, generator)
        if model.reader is not None:
            model.reader.draw(generator)
        if model.pooler is not None and base.pooler is not None:
            model.pooler.load_state_dict(base.pooler)
        elif model.pooler is not None and base.folder is not None:
            model.notices = (f"{base.config.model_type}: {NEW_POOLER}",)
    return model


def reinitialise(model: Classifier, base: Base, blocks: int, count: int, seed: int) -> None:
    """Reinitialise the topmost `count` of the encoder's `blocks` (Zhang et al. 2021, section 5)."""
    names, generator = layer_names(model.encoder, blocks), torch.Generator().manual_seed(seed)
    chosen = {f"layer {i}" for i in range(blocks - count, blocks)}
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if names[name] in chosen:
                draw_initial(name, parameter, base.config, generator)
