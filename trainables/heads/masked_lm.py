"""Masked language models: an encoder with the head of its family, computed at the predicted positions only."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput

from trainables.batches.pack import Batch
from trainables.encoder.load import Base, draw_initial, hidden_states, prepared, with_dropout
from trainables.encoder.weights import read_model
from trainables.settings.errors import ConfigError

NEW_HEAD = "no masked-language-modelling head in the checkpoint; a new one, tied to the embeddings"


class _Answer(BaseModelOutput):  # type: ignore[misc]
    """Hidden states, and None for all other outputs that a family's head reads."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _KnownStates(nn.Module):
    """Replaces the encoder inside a transformers head: returns hidden states that are already computed."""

    hidden: Tensor | None = None

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = [encoder]  # in a list, so that it is not a child of this module

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        return _Answer(last_hidden_state=self.hidden)

    @property
    def embeddings(self) -> Any:
        """The encoder's embeddings, for heads that are tied to them."""
        return self._encoder[0].embeddings


class MaskedLM(nn.Module):
    """An encoder with the masked-language-modelling head of its family, computed at the predicted positions only."""

    notices: tuple[str, ...] = ()
    """Notices to the user about the head."""

    def __init__(self, encoder: nn.Module, head: nn.Module, known: _KnownStates) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._known = [known]  # in a list, so that it is not a child of this module: it is the head's

    def forward(self, batch: Batch) -> Tensor:
        """Logits [m, vocabulary] at the masked positions."""
        return self.logits(hidden_states(self.encoder, batch, batch.masked_index), batch)

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [m, vocabulary] from the hidden states [m, H] at the masked positions."""
        assert batch.masked_targets is not None, "a batch without masked pieces"
        known = self._known[0]
        known.hidden = hidden[None]  # [1, m, H]
        try:
            logits: Tensor = self.head(input_ids=batch.masked_targets[None]).logits[0]
        finally:
            known.hidden = None
        return logits


def masked_lm(base: Base, dropout: float, seed: int) -> MaskedLM:
    """A masked language model on a copy of the base's encoder, with the checkpoint's head, or a new one from `seed`.

    Raises ConfigError for a family without such a head.
    """
    if type(base.config) not in AutoModelForMaskedLM._model_mapping:
        raise ConfigError([f"further pre-training: {base.config.model_type} encoders have no masked-language-modelling head"])
    with no_init_weights():
        whole: Any = AutoModelForMaskedLM.from_config(with_dropout(base.config, dropout))
    whole.tie_weights()
    name = whole.base_model_prefix
    encoder = prepared(getattr(whole, name), base)
    own, generator = _own_head(base.folder), torch.Generator().manual_seed(seed)
    tied = {id(parameter) for parameter in encoder.parameters()}
    with torch.no_grad():
        for key, parameter in whole.named_parameters():
            if id(parameter) in tied:
                continue
            if key in own:
                parameter.copy_(own[key])
            else:
                draw_initial(key, parameter, base.config, generator)
    known = _KnownStates(encoder)
    setattr(whole, name, known)
    model = MaskedLM(encoder, whole, known)
    if not own and base.folder is not None:
        model.notices = (f"{base.config.model_type}: {NEW_HEAD}",)
    return model


@lru_cache(maxsize=1)  # of the one encoder from which a process starts its trials
def _own_head(folder: Path | None) -> dict[str, Tensor]:
    """Parameters of a checkpoint's masked-language-modelling head; empty if it is incomplete."""
    if folder is None:
        return {}
    whole, missing = read_model(AutoModelForMaskedLM, folder)
    prefix = f"{whole.base_model_prefix}."
    head = {name: value.detach() for name, value in whole.named_parameters() if not name.startswith(prefix)}
    return {} if missing & head.keys() else head
