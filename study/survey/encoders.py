"""`study encoders`: the abilities of each family of encoders, as text of 80 columns, JSON and docs/encoders.md.

Tests compare the table with the abilities of a tiny encoder of each family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

WIDTH = 80
INDENT = "    "


@dataclass(frozen=True)
class Family:
    """The abilities of a family of encoders."""

    encoders: str
    """Published encoders."""
    positions: int
    """Longest text that these were trained on, in pieces."""
    masked: bool = True
    """Whether masked language modelling works."""
    pairs: bool = False
    """Whether next-sentence prediction works too, for checkpoints with two token types."""
    types: bool = False
    """Whether it takes token types."""
    shared: bool = False
    """Whether all layers share the weights of one block."""
    learned: bool = True
    """Whether positions are learned, so that no text can be longer."""
    padded: str | None = None
    """Reason why it needs padded batches; None if texts are packed."""
    adapters: tuple[str, ...] | None = None
    """Linear layers that get adapters by default; None: all of a block."""


BERT = ("query", "value")
TABLE = {
    "bert": Family(
        "BERT base, large, Chinese, multilingual; TinyBERT; MiniLM and others for sentences",
        512,
        pairs=True,
        types=True,
        adapters=BERT,
    ),
    "roberta": Family("RoBERTa base, large", 512, types=True, adapters=BERT),
    "xlm-roberta": Family("XLM-R base, large; multilingual sentence encoders", 512, types=True, adapters=BERT),
    "albert": Family("ALBERT base, large, xlarge", 512, pairs=True, types=True, shared=True),
    "distilbert": Family("DistilBERT", 512),
    "electra": Family("ELECTRA small, base, large (discriminators)", 512, pairs=True, types=True, adapters=BERT),
    "ernie": Family("ERNIE 2.0, ERNIE 3.0", 512, pairs=True, types=True),
    "mpnet": Family("MPNet base; all-mpnet-base", 512, padded="attention adds a bias of relative positions"),
    "nomic_bert": Family("nomic-embed-text", 2048, pairs=True, types=True, learned=False),
    "modernbert": Family("ModernBERT base, large", 8192, learned=False),
    "deberta-v2": Family(
        "DeBERTa-v3 small, base, large; mDeBERTa-v3",
        512,
        types=True,
        learned=False,
        padded="disentangled attention adds scores of relative positions",
        adapters=("query_proj", "value_proj"),
    ),
    "xlnet": Family(
        "XLNet base, large", 512, masked=False, types=True, learned=False, padded="relative attention knows its own positions"
    ),
    "longformer": Family("Longformer base, large", 4096, types=True, padded="attention runs over windows"),
    "big_bird": Family(
        "BigBird base, large",
        4096,
        pairs=True,
        types=True,
        padded="attention runs over blocks, and over all of a short text; always in float32",
    ),
}
"""{name of a family in transformers: its abilities}"""
HEAD = ("family", "batches", "MLM", "NSP", "types", "blocks", "longest text")
REMARKS = (
    """All of them: fine-tuning, layer-wise rates, any layers as features, every kind of truncation, fractions of long texts,
    adapters, gradient checkpointing, and further pre-training if MLM is 'yes'.""",
    """padded: batches of texts with similar lengths, with a notice: the same results, more slowly. Any other encoder is tested when
    it is loaded: study encoders FOLDER|HUB.""",
    """NSP: the family has token types for pairs; a checkpoint with a single token type, as RoBERTa's, works with MLM only.""",
    """blocks: 'one' block is shared by all layers and has the learning rate of the last layer.""",
    """longest text: in pieces, special ones included, of the published checkpoints; '~' marks the length in training of encoders
    without learned positions.""",
)


CHECKED = """\
`study encoders`, `doctor`, `plan` and `run` check an encoder before anything is computed.

- Weights: weights that config.json describes and the file lacks are refused, and so are other shapes, types that are not whole
  weights, two encoders in one file, NaN, and layers that config.json leaves out. A pooler and heads of pre-training may be
  missing: a notice says where a new one is drawn, for a pooler in the plan. Prefixes that programs put before all names (`module.`,
  `_orig_mod.`, `base_model.model.`, `0.auto_model.`, `model.`) are removed, with a notice. A wrong `num_attention_heads` that
  divides the width cannot be detected.
- Tokenizer: one that cannot be read, has no vocabulary or fails on a text (`study tasks --stats` refuses it too), and pieces
  without a row in the embedding are refused. Notices report far fewer pieces than rows, special tokens with other ids than in
  config.json, a text without special tokens, and a vocabulary with capitals for lower-cased texts, or without.
- Texts: a notice reports over 5 % of unknown pieces in a sample of 500 training texts, with the most frequent ones.
- Decoders (gpt2) and encoders with a decoder (t5, bart) are refused."""


def cells(name: str, family: Family) -> tuple[str, ...]:
    """Return a row of the table as text."""
    flags = ("yes" if flag else "no" for flag in (family.masked, family.pairs, family.types))
    blocks, tilde = "one" if family.shared else "each", "" if family.learned else "~"
    return (name, "padded" if family.padded else "packed", *flags, blocks, f"{tilde}{family.positions}")


def show() -> str:
    """Format the table for a terminal."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _line(HEAD)
    for name, family in TABLE.items():
        yield _line(cells(name, family))
        yield from _wrapped(family.encoders)
        if family.padded:
            yield from _wrapped(f"padded: {family.padded}")
    yield ""
    for remark in REMARKS:
        yield from _wrapped(" ".join(remark.split()), "")


def _line(row: tuple[str, ...]) -> str:
    return f"{row[0]:<14}{row[1]:<10}{row[2]:<6}{row[3]:<6}{row[4]:<8}{row[5]:<10}{row[6]}".rstrip()


def _wrapped(text: str, indent: str = INDENT) -> list[str]:
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def listing() -> list[dict[str, Any]]:
    """Return the table as plain data."""
    return [{"family": name} | dataclasses.asdict(family) for name, family in TABLE.items()]


def measured(name: str) -> dict[str, Any]:
    """Return the abilities of the encoder in a folder or on the hub. Raises ConfigError if it cannot be read."""
    from study.survey.tasks import encoder_named
    from trainables.encoder.load import load_base
    from trainables.encoder.weights import quiet
    from trainables.heads.abilities import abilities_of

    with quiet():
        base = load_base(encoder_named(name))
        return {"encoder": name, "family": base.config.model_type} | dataclasses.asdict(abilities_of(base))


def show_measured(abilities: dict[str, Any]) -> str:
    """Format these abilities for a terminal."""
    yes = {True: "yes", False: "no"}
    longest = "no limit of its own" if abilities["longest"] is None else f"{abilities['longest']} pieces, special ones included"
    lines = [
        f"{abilities['encoder']}: {abilities['family']}",
        f"batches       {'packed' if abilities['packed'] else 'padded'}",
        f"MLM           {yes[abilities['masked']]}",
        f"NSP           {yes[abilities['pairs']]}",
        f"token types   {yes[abilities['types']]}",
        f"layers        {abilities['layers']}" + (" that share one block" if abilities["blocks"] < abilities["layers"] else ""),
        f"longest text  {longest}",
    ]
    return "\n".join([*lines, *(line for notice in abilities["notices"] for line in wrap(f"notice: {notice}", WIDTH))])


def document() -> str:
    """Return docs/encoders.md, from the table."""
    lines = [
        "# Encoders",
        "",
        "Written by `make docs`. Tests check every entry with a tiny encoder of each family, with random weights and a",
        "tokenizer of its kind.",
        "",
        "```bash",
        "study encoders                                       # this table",
        "study encoders google-bert/bert-base-uncased         # what works with this one: it is loaded and tested",
        "```",
        "",
        f"| {' | '.join(HEAD)} | published | adapters by default |",
        f"|{'---|' * (len(HEAD) + 2)}",
        *(_row(name, family) for name, family in TABLE.items()),
        "",
        *(f"- {' '.join(remark.split())}" for remark in REMARKS),
        "",
        "## What is refused, what is reported",
        "",
        *CHECKED.splitlines(),
        "",
        "## Why some are padded",
        "",
        "Their models in transformers compute attention themselves and ignore a replacement.",
        "",
        *(f"- `{name}`: {family.padded}." for name, family in TABLE.items() if family.padded),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, family: Family) -> str:
    family_name, *rest = cells(name, family)
    return f"| {' | '.join((f'`{family_name}`', *rest, family.encoders, ', '.join(family.adapters or ('all linear layers',))))} |"
