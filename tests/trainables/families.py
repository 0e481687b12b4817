"""The families of encoders as data, and a tiny checkpoint of each: the family's own tokenizer and random weights, on the disk."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from tests.helpers import reviews
from trainables.batches.pack import Example, padded_width, token_types
from trainables.encoder.load import Base, load_base
from trainables.settings.encoder import Encoder

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 200,
}
PIECES = 400
"""Size of the vocabularies."""


@dataclass(frozen=True)
class Family:
    """A family by transformers' name of it."""

    model_type: str
    tokenizer: str
    """transformers' class of tokenizer whose algorithm is trained on a few texts."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What makes a tiny encoder of it, beside what all have: as published, where that is not transformers' default."""
    first: tuple[str, ...] = ()
    """The first pieces of published vocabularies, where the padding piece's number matters."""


ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
DISTILBERT = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
DEBERTA_V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
XLNET = {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "max_position_embeddings": None}
FAMILIES = {
    family.model_type: family
    for family in (
        Family("bert", "BertTokenizer"),
        Family("roberta", "RobertaTokenizer", {"type_vocab_size": 1}, ROBERTA),
        Family("xlm-roberta", "XLMRobertaTokenizer", {"type_vocab_size": 1}),
        Family("albert", "AlbertTokenizer", {"embedding_size": 16}),
        Family("distilbert", "BertTokenizer", DISTILBERT),
        Family("electra", "BertTokenizer", {"embedding_size": 16}),
        Family("ernie", "BertTokenizer", {"type_vocab_size": 4}),
        Family("mpnet", "MPNetTokenizer", {}, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")),
        Family("nomic_bert", "BertTokenizer"),
        Family("modernbert", "RobertaTokenizer", {"local_attention": 16}, ROBERTA),
        Family("deberta-v2", "DebertaV2Tokenizer", DEBERTA_V3),
        Family("xlnet", "XLNetTokenizer", XLNET),
        Family("longformer", "RobertaTokenizer", {"attention_window": [8, 8, 8], "type_vocab_size": 1}, ROBERTA),
        Family("big_bird", "BigBirdTokenizer", {"block_size": 4, "num_random_blocks": 1}),
    )
}


def strong(config: Any, kind: Any = AutoModel) -> Any:
    """A random model, the same at every call, with weights so large that mixing up texts shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
    return model


def tokenizer_of(family: Family) -> Any:
    """The family's tokenizer with a vocabulary trained on a few reviews."""
    kind = getattr(transformers, family.tokenizer)
    trained = kind().train_new_from_iterator([text for text, _ in reviews(limit=200)], PIECES)
    if not family.first:
        return trained
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    pieces = [*family.first, *(piece for piece in sorted(model["vocab"], key=model["vocab"].get) if piece not in family.first)]
    merges = {"merges": [tuple(pair) for pair in model["merges"]]} if "merges" in model else {}
    return kind(vocab={piece: number for number, piece in enumerate(pieces)}, **merges)


@cache
def checkpoint(kind: str, **changes: Any) -> Path:
    """A folder with the family's tiny encoder, with its head for masked pieces where it has one, and its tokenizer."""
    family = FAMILIES[kind]
    tokenizer = tokenizer_of(family)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    fields = TINY | {"vocab_size": len(tokenizer)} | ids | family.fields | changes
    config = AutoConfig.for_model(kind, **{name: value for name, value in fields.items() if value is not None})
    for name in [name for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)]:
        setattr(config, name, 0.0)  # what transformers itself answers in training is then a reference
    made = AutoModelForMaskedLM if type(config) in AutoModelForMaskedLM._model_mapping else AutoModel
    model = strong(config, made)
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{kind}-"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(kind: str, **changes: Any) -> Encoder:
    """The setting that names it."""
    return Encoder(folder=str(checkpoint(kind, **changes)))


@cache
def base(kind: str, **changes: Any) -> Base:
    """It as trials start from it."""
    return load_base(encoder(kind, **changes))


def inputs_of(example: Example, base: Base) -> dict[str, Tensor]:
    """A text as transformers' own models take it; with the padding that it has here for BigBird, whose last block sees all."""
    ids = torch.from_numpy(example.ids.astype(np.int64))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.takes_types:
        inputs["token_type_ids"] = torch.from_numpy(token_types(len(example.ids), base))[None]
    if base.config.model_type == "big_bird":
        more = padded_width(len(example.ids)) - len(example.ids)
        inputs = {name: torch.nn.functional.pad(value, (0, more)) for name, value in inputs.items()}
    if base.takes_global:  # as transformers' own classifier for such encoders has it
        inputs["global_attention_mask"] = torch.zeros_like(ids)
        inputs["global_attention_mask"][0, 0] = 1
    return inputs
