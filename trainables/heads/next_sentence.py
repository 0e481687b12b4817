"""The head for next-sentence prediction of BERT (Devlin et al. 2019, section 3.1), which classifies whether B follows A.

[CLS] passes the encoder's dense tanh pooler, then a linear layer to two classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForPreTraining
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING_NAMES

from trainables.batches.pack import Batch
from trainables.batches.sentence_pairs import NO_PAIR
from trainables.encoder.load import Base, draw_initial, hidden_states
from trainables.encoder.weights import NEW_POOLER, read_model
from trainables.heads.masked_lm import MaskedLM, masked_lm
from trainables.settings.errors import ConfigError

OWN_HEAD = "seq_relationship"
"""Name of the layer over the pooler's output in transformers' models."""
NEW_HEAD = "no next-sentence head in the checkpoint; a new one is used"


class PairedLM(nn.Module):
    """A masked language model with an additional head for pairs."""

    def __init__(self, masked: MaskedLM, hidden_size: int) -> None:
        super().__init__()
        self.encoder, self.head = masked.encoder, masked.head
        self._masked = [masked]  # in a list, so that it is not a child: its parts are children of this module already
        self.pooler = nn.Linear(hidden_size, hidden_size)  # under the name that fine-tuning expects
        self.next_sentence = nn.Linear(hidden_size, 2)
        self.notices = masked.notices

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [m, vocabulary] at the masked positions, logits [b, 2] of the pairs in float32)."""
        assert batch.masked_index is not None, "a batch without masked pieces"
        hidden = hidden_states(self.encoder, batch)  # [T, H]
        pooled = torch.tanh(self.pooler(hidden.index_select(0, batch.pool_index)))
        return self._masked[0].logits(hidden.index_select(0, batch.masked_index), batch), self.next_sentence(pooled).float()


def paired_lm(base: Base, dropout: float, seed: int) -> PairedLM:
    """A model for both objectives on a copy of the base's encoder; missing layers are initialised from `seed`, with a notice.

    Raises ConfigError for an encoder without two token types.
    """
    if fault := base_fault(base):
        raise ConfigError([f"further pre-training: {fault}"])
    model = PairedLM(masked_lm(base, dropout, seed), base.hidden_size)
    generator = torch.Generator().manual_seed(seed + 2**32)  # different from the numbers of a new masked-language-modelling head
    for layer, own, notice in (
        (model.pooler, base.pooler, NEW_POOLER),
        (model.next_sentence, _own_head(base.folder, base.config.model_type), NEW_HEAD),
    ):
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                draw_initial(name, parameter, base.config, generator)
        if own:
            layer.load_state_dict(dict(own))
        else:
            model.notices += (f"{base.config.model_type}: {notice}",)
    return model


def base_fault(base: Base) -> str | None:
    """Why a loaded encoder does not support pairs; None if it does."""
    types = getattr(base.config, "type_vocab_size", 0) if base.takes_types else 0
    return pair_fault({"model_type": base.config.model_type, "type_vocab_size": types})


def pair_fault(settings: Mapping[str, Any]) -> str | None:
    """Why an encoder of this transformers configuration does not support pairs; None if it does."""
    kind = str(settings.get("model_type"))
    default = getattr(CONFIG_MAPPING[kind](), "type_vocab_size", None) if kind in CONFIG_MAPPING else None
    types = settings.get("type_vocab_size", default) or 0
    if types >= 2:
        return None
    return (
        f"mlm+nsp needs an encoder with two token types for the texts of a pair, but this {kind} has {types} token types;"
        " use mlm, or an encoder such as BERT"
    )


@lru_cache(maxsize=1)  # of the one encoder from which a process starts its trials
def _own_head(folder: Path | None, kind: str) -> dict[str, Tensor] | None:
    """Weight and bias of a checkpoint's layer for pairs; None if it has none."""
    if folder is None or kind not in MODEL_FOR_PRETRAINING_MAPPING_NAMES:
        return None
    whole, missing = read_model(AutoModelForPreTraining, folder)
    own = {name: value.detach() for name, value in whole.named_parameters() if OWN_HEAD in name}
    return None if missing & own.keys() else {name.rpartition(".")[2]: value for name, value in own.items()}


def paired_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy summed over the predicted pieces plus the weighted cross-entropy of the pairs.

    Divided by the number of predicted pieces, this is the sum of two means (see `sentence_pairs.weighed`).
    """
    assert batch.masked_targets is not None
    assert batch.labels is not None
    pieces, pairs = model(batch)
    losses = F.cross_entropy(pairs, batch.labels, ignore_index=NO_PAIR, reduction="none")  # [b]
    weights = torch.ones_like(losses) if batch.label_weights is None else batch.label_weights
    return F.cross_entropy(pieces.float(), batch.masked_targets, reduction="sum") + (losses * weights).sum()
