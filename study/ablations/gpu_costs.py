"""Estimate the FLOPs of training; sizes of published data sets and encoders that are not on this machine."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.ablations.ablation_file import PUBLISHED
from study.planning.estimate import encoder_settings, layers_of, matrix_weights, width_of
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

if TYPE_CHECKING:
    from trainables.settings.stages import Finetune

FLOPS_PER_WEIGHT = 6
"""FLOPs of training per weight and piece: two forward, four backward. Attention's products are excluded: 10 % at 512 pieces."""

# Encoders ------------------------------------------------------------------------------------------------------------------------

BASE = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}
LARGE = BASE | {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
ENCODERS = {
    "google-bert/bert-base-uncased": BASE | {"model_type": "bert", "vocab_size": 30522},
    "google-bert/bert-base-chinese": BASE | {"model_type": "bert", "vocab_size": 21128},
    "google-bert/bert-large-uncased": LARGE | {"model_type": "bert", "vocab_size": 30522},
    "FacebookAI/roberta-base": BASE | {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514},
}
"""Published shapes of the papers' encoders (their config.json on the hub), for plans without the encoder on this machine."""


def measurable(encoder: Encoder) -> Encoder:
    """Return the encoder, or without its files one of the same shape. Raises ConfigError if its shape is unknown."""
    try:
        encoder_settings(encoder)
    except ConfigError:
        if encoder.hub not in ENCODERS:
            raise
        return Encoder(config=ENCODERS[encoder.hub])
    return encoder


def flops_per_piece(encoder: Encoder, predicted: float = 0.0) -> float:
    """Return the FLOPs of training per piece; `predicted` is the share of pieces in the head of masked language modelling."""
    settings = encoder_settings(encoder)
    pieces = int(settings.get("vocab_size") or encoder.vocabulary)
    width = width_of(settings)
    return FLOPS_PER_WEIGHT * (matrix_weights(encoder) + predicted * pieces * width)


def blocks_used(stage: Finetune, encoder: Encoder) -> float:
    """Return the share of the encoder's blocks that a stage runs: those up to the highest of its layers."""
    blocks = layers_of(encoder)
    return (max(layer % blocks for layer in stage.layers) + 1) / blocks


def bilstm_flops(stage: Finetune, encoder: Encoder) -> float:
    """Return the FLOPs of training a biLSTM per piece: four gates, two directions, on encoder and own vectors; else 0."""
    settings = encoder_settings(encoder)
    width = width_of(settings)
    vectors = len(stage.layers) if stage.combine == "concat" else 1
    return FLOPS_PER_WEIGHT * 8 * stage.lstm_width * (vectors * width + stage.lstm_width) if stage.pooling == "bilstm" else 0.0


# Data -----------------------------------------------------------------------------------------------------------------------------

TABLE_1 = {
    "imdb": "IMDb",
    "yelp_polarity": "Yelp P.",
    "yelp_full": "Yelp F.",
    "trec": "TREC",
    "yahoo_answers": "Yahoo! Answers",
    "ag_news": "AG's News",
    "dbpedia": "DBPedia",
    "sogou": "Sogou News",
}
"""Known tasks and their names in Table 1 of Sun et al. 2019."""
TABLE_2 = {
    "chemprot": "CHEMPROT",
    "rct": "RCT",
    "citation_intent": "ACL-ARC",
    "sciie": "SCIERC",
    "hyperpartisan": "HYPERPARTISAN",
    "helpfulness": "HELPFULNESS",
}
"""Known tasks and their names in Table 2 of Gururangan et al. 2020, which gives no lengths."""
UNKNOWN_TEXTS, UNKNOWN_LENGTH = 10_000, 200
"""Assumed number and length (pieces) of texts of unknown size."""


@dataclass(frozen=True)
class Size:
    """Number and length of a task's texts."""

    train: int
    validation: int
    test: int
    length: float
    """Mean pieces of a text."""
    source: str


def published(paper: str, table: str) -> Mapping[tuple[str, str], str]:
    """Return {(row, column): value} of a published table; empty for an unknown one."""
    with open(PUBLISHED / f"{paper}.csv", encoding="utf-8", newline="") as file:
        return {(row["row"], row["column"]): row["value"] for row in csv.DictReader(file) if row["table"] == table}


def published_size(known: str | None, validation_share: float) -> Size:
    """Return the size of a known task from the papers' tables; without a validation split `validation_share` is held out."""
    if known in TABLE_1:
        row = {column: value for (name, column), value in published("sun2019", "Table 1").items() if name == TABLE_1[known]}
        whole, test, length = int(row["train_samples"]), int(row["test_samples"]), float(row["average_length"])
        held = round(whole * validation_share)
        return Size(whole - held, held, test, length, "sizes and mean lengths of Table 1 of Sun et al. 2019")
    if known in TABLE_2:
        row = {column: value for (name, column), value in published("gururangan2020", "Table 2").items() if name == TABLE_2[known]}
        train, dev, test = (int(row[name]) for name in ("train labelled", "dev", "test"))
        source = f"sizes of Table 2 of Gururangan et al. 2020, texts taken to have {UNKNOWN_LENGTH} pieces"
        return Size(train, dev, test, UNKNOWN_LENGTH, source)
    held = round(UNKNOWN_TEXTS * validation_share)
    source = f"a guess: {UNKNOWN_TEXTS:,} texts of {UNKNOWN_LENGTH} pieces"
    return Size(UNKNOWN_TEXTS - held, held, held, UNKNOWN_LENGTH, source)
