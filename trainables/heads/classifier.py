"""Classifiers: an encoder, the vector of a text or of its fractions, and a head."""

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
    """An encoder with a linear layer over the vector of each text."""

    notices: tuple[str, ...] = ()
    """What the user should know about the head."""
    penalty: Tensor | float = 0.0
    """What the last forward pass adds to the loss, summed over its texts."""

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
        self.penalty = 0.0  # and with it goes what memory the last pass held
        if self.join is None:
            vectors = self.vectors(batch)
        else:
            vectors = self.join(torch.cat(in_parts(self.vectors, batch.chunks or (batch,))), batch.counts)
        logits: Tensor = self.classifier(self.dropout(vectors))
        return logits.float()

    def vectors(self, batch: Batch) -> Tensor:
        """The vector of each text or fraction, [b, H], or [b, layers * H] for several layers side by side."""
        features = self.features(batch) if batch.features is None else batch.features
        if self.reader is not None:
            features, self.penalty = self.reader(features, batch.lengths)
        return features if self.pooler is None else torch.tanh(self.pooler(features))

    def features(self, batch: Batch) -> Tensor:
        """What the encoder alone says: a row for each text or fraction, under bilstm for each of their pieces, [T, H]."""
        if batch.chunks:
            return torch.cat([self.features(chunk) for chunk in batch.chunks])
        states = layer_states(self.encoder, batch, self.layers)  # each [T, H]
        if self.pooling == "mean":
            states = [mean_over_texts(state, batch.lengths) for state in states]
        elif self.pooling != "bilstm":
            states = [state.index_select(0, batch.pool_index) for state in states]
        return COMBINED[self.combine](states)


COMBINED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "concat": lambda found: torch.cat(found, dim=-1),
    "mean": lambda found: torch.stack(found).mean(0),
    "max": lambda found: torch.stack(found).amax(0),
}
"""How the vectors of several layers are joined (Sun et al. 2019, section 5.3.2)."""


class JoinedBy(nn.Module):
    """The vectors of each text's fractions, [fractions, H], as one by a function of their first dimension: [b, H]."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, vectors: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.stack([self.function(text) for text in vectors.split(list(counts))])


class SelfAttention(nn.Module):
    """Sum of each text's fractions, weighted by softmax over u' tanh(W x) (Lin et al. 2017, with one head)."""

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
"""How the vectors of a text's fractions are joined (Sun et al. 2019, section 5.3.1), for vectors of a width."""


def mean_over_texts(hidden: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Mean of [T, H] over the tokens of each text: [b, H]."""
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
    """A classifier on a copy of the base's encoder; its new parameters are drawn from `seed` alone.

    Blocks above the highest of `layers` are left out. In a `frozen` encoder nothing drops out: its vectors are features. With
    `hidden` units the head has two layers. `lstm` holds what a BiLSTM takes, for pooling bilstm.
    """
    depth = depth_of(layers, base.layers)
    # What the encoder itself gives out is its last layer's output, with its final norm where it has one.
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
    """New random weights for the topmost `count` of the encoder's `blocks` (Zhang et al. 2021, section 5)."""
    names, generator = layer_names(model.encoder, blocks), torch.Generator().manual_seed(seed)
    chosen = {f"layer {i}" for i in range(blocks - count, blocks)}
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if names[name] in chosen:
                draw_initial(name, parameter, base.config, generator)
