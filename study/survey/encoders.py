"""`study encoders`: what works with which family of encoders, as text of 80 columns, JSON and docs/encoders.md.

What stands in the table is what tests measure on a tiny encoder of each family.
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
    """A family, by transformers' name of it."""

    encoders: str
    """Published ones."""
    positions: int
    """Longest text that these were trained on, in pieces."""
    masked: bool = True
    """Masked language modelling."""
    pairs: bool = False
    """Next-sentence prediction beside it, where the checkpoint has two token types."""
    types: bool = False
    """Takes token types."""
    shared: bool = False
    """All layers share the weights of one block."""
    learned: bool = True
    """Positions are learned: no text can be longer."""
    padded: str | None = None
    """Why it takes padded batches; None where texts are packed."""
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
        "BigBird base, large", 4096, pairs=True, types=True, padded="attention runs over blocks, and over all of a short text"
    ),
}
"""What works with each family."""
HEAD = ("family", "batches", "MLM", "NSP", "types", "blocks", "longest text")
REMARKS = (
    """All of them: fine-tuning, layer-wise rates, any layers as features, every kind of truncation, fractions of long texts,
    adapters, gradient checkpointing, and further pre-training where MLM says yes.""",
    """padded: texts of like length side by side, with a notice: the same results, more slowly. Any other encoder is tried out when
    it is loaded: study encoders FOLDER|HUB.""",
    """NSP: the family has token types for pairs; a checkpoint with a single one, as RoBERTa's, takes MLM alone.""",
    """blocks: 'one' is shared by all layers and has the rate of the last.""",
    """longest text: in pieces, special ones included, of the published checkpoints; '~' where no position is learned, and this is
    what they were trained on.""",
)


CHECKED = """\
`study encoders`, `doctor`, `plan` and `run` look at an encoder before anything is computed.

- Weights: what config.json describes and the file lacks is never made up but refused, as are other shapes, types that are no whole
  weights, two encoders in one file, NaN, and layers that config.json would leave out. A pooler and heads of pre-training may be
  missing: a notice tells where a new one is drawn, of a pooler in the plan. What programs put before all names (`module.`,
  `_orig_mod.`, `base_model.model.`, `0.auto_model.`, `model.`) is taken off, and told. Nothing tells a wrong `num_attention_heads`
  that divides the width.
- Tokenizer: one that cannot be read, has no vocabulary or fails at a text (`study tasks --stats` refuses it too), and pieces
  without a row in the embedding are refused. Told are far fewer pieces than rows, special tokens with other numbers than in
  config.json, a text without special tokens, and a vocabulary with capitals for lower-cased texts, or without.
- Texts: over 5 % of unknown pieces in a sample of 500 training texts are told, with the commonest.
- Decoders (gpt2) and encoders with a decoder (t5, bart) are refused."""


def cells(name: str, family: Family) -> tuple[str, ...]:
    """A row of the table."""
    flags = ("yes" if each else "no" for each in (family.masked, family.pairs, family.types))
    blocks, tilde = "one" if family.shared else "each", "" if family.learned else "~"
    return (name, "padded" if family.padded else "packed", *flags, blocks, f"{tilde}{family.positions}")


def show() -> str:
    """The table."""
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
    """The same as plain data."""
    return [{"family": name} | dataclasses.asdict(family) for name, family in TABLE.items()]


def measured(name: str) -> dict[str, Any]:
    """What works with the encoder in a folder or on the hub. Raises ConfigError where it cannot be read."""
    from study.survey.tasks import encoder_named
    from trainables.encoder.load import load_base
    from trainables.encoder.weights import quiet
    from trainables.heads.abilities import abilities_of

    with quiet():
        base = load_base(encoder_named(name))
        return {"encoder": name, "family": base.config.model_type} | dataclasses.asdict(abilities_of(base))


def show_measured(found: dict[str, Any]) -> str:
    """The same as text."""
    yes = {True: "yes", False: "no"}
    longest = "no limit of its own" if found["longest"] is None else f"{found['longest']} pieces, special ones included"
    lines = [
        f"{found['encoder']}: {found['family']}",
        f"batches       {'packed' if found['packed'] else 'padded'}",
        f"MLM           {yes[found['masked']]}",
        f"NSP           {yes[found['pairs']]}",
        f"token types   {yes[found['types']]}",
        f"layers        {found['layers']}" + (" that share one block" if found["blocks"] < found["layers"] else ""),
        f"longest text  {longest}",
    ]
    return "\n".join([*lines, *(line for notice in found["notices"] for line in wrap(f"notice: {notice}", WIDTH))])


def document() -> str:
    """docs/encoders.md, from the table."""
    lines = [
        "# Encoders",
        "",
        "Written by `make docs`. Tests take a tiny encoder of each family, with random weights and a tokenizer of",
        "its kind, through everything that is said here, and compare the table with what they find.",
        "",
        "```bash",
        "study encoders                                       # this table",
        "study encoders google-bert/bert-base-uncased         # what works with this one: it is loaded and tried out",
        "```",
        "",
        f"| {' | '.join(HEAD)} | published | adapters by default |",
        f"|{'---|' * (len(HEAD) + 2)}",
        *(_row(name, family) for name, family in TABLE.items()),
        "",
        *(f"- {' '.join(remark.split())}" for remark in REMARKS),
        "",
        "## What is refused, what is told",
        "",
        *CHECKED.splitlines(),
        "",
        "## Why some are padded",
        "",
        "Their models in transformers compute attention by themselves and ignore one that is put in its place.",
        "",
        *(f"- `{name}`: {family.padded}." for name, family in TABLE.items() if family.padded),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, family: Family) -> str:
    family_name, *rest = cells(name, family)
    return f"| {' | '.join((f'`{family_name}`', *rest, family.encoders, ', '.join(family.adapters or ('all linear layers',))))} |"
