"""Check an encoder's weights and tokenizer against each other and against the texts, before anything is computed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from trainables.batches.special_tokens import special_tokens
from trainables.encoder import checkpoint
from trainables.encoder.tensors import some
from trainables.encoder.weights import check_values, check_weights
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

SAMPLE = 500
"""Number of texts checked for unknown pieces."""
MOST_UNKNOWN = 0.05
"""A larger share of unknown pieces gives a notice: English texts have none or one in a thousand."""
LEAST_USED = 0.9
"""A smaller share of embedding rows with a piece gives a notice. A few spare rows are common, for a round number."""
CAPITALS = 0.05
"""With a larger share of pieces with capitals a vocabulary counts as cased: in an uncased one only special tokens have them."""
LETTERS = 50
"""Least number of pieces with two or more letters for a judgement."""
RARE = "A word, 𪚥 ꙮ"
"""A text that every tokenizer must be able to read, with letters that most have no piece for."""
IDS = ("pad", "bos", "eos", "cls", "sep", "mask")
SPECIAL = re.compile(r"[\[<].+[\]>]|None")
"""What special tokens look like: [CLS], <s>; `None` is what transformers makes of one that a tokenizer does without."""


def check_encoder(encoder: Encoder, texts: Sequence[str] = (), masks: bool = False, pooled: bool = False) -> list[str]:
    """Notices on an encoder's weights and tokenizer, and on how it reads a sample of `texts`.

    `masks` requires a mask token, `pooled` a pooler. Raises ConfigError with all faults that make results wrong or impossible.
    """
    folder = checkpoint.tokenizer_folder(encoder)
    if folder is None:
        return []  # the vocabulary is trained on the texts, and the weights are initialised for it
    scratch = encoder.config is not None
    settings = encoder.config or checkpoint.settings(folder)
    faults: list[str] = []
    notices: list[str] = []
    for check in () if scratch else (partial(check_weights, pooled=pooled), check_values):
        try:
            notices += check(folder) or ()
        except ConfigError as error:
            faults += error.faults
            break
    place, at = checkpoint.place(encoder), checkpoint.tokenizer_place(encoder)
    faults = [f"{place}: {fault}" for fault in faults]
    notices = [f"{place}: {notice}" for notice in notices]
    try:
        tokenizer = read_tokenizer(folder)
        faults += [f"{at}: {fault}" for fault in tokenizer_faults(tokenizer, settings, masks)]
        remarks = [*tokenizer_notices(tokenizer, settings), *unknown_notices(tokenizer, texts)]
        notices += [f"{at}: {notice}" for notice in remarks]
    except ConfigError as error:
        faults += [f"{at}: {fault}" for fault in error.faults]
    except Exception as error:  # every kind of tokenizer raises errors of its own
        faults.append(f"{at}: the tokenizer cannot be used: {_one_line(error)}")
    if faults:
        raise ConfigError(faults)
    return notices


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in a folder. Raises ConfigError if its files are damaged or incomplete."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every kind of tokenizer raises errors of its own
        raise ConfigError([f"the tokenizer in {folder} cannot be read: {_one_line(error)}"]) from error
    if all(SPECIAL.fullmatch(piece) for piece in tokenizer.get_vocab()):
        # transformers creates such a tokenizer if the vocabulary file of its kind is missing.
        raise ConfigError([f"the tokenizer in {folder} has no pieces but special tokens: the file of its vocabulary is missing"])
    try:
        tokenizer(RARE)
    except Exception as error:
        raise ConfigError([f"the tokenizer cannot be used: {_one_line(error)}; save the encoder's own there again"]) from error
    return tokenizer


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def rows_needed(tokenizer: Any) -> int:
    """Rows that an embedding needs for the pieces of a tokenizer: the largest id plus one."""
    return int(max(tokenizer.get_vocab().values())) + 1


def tokenizer_faults(tokenizer: Any, settings: dict[str, Any], masks: bool) -> Iterator[str]:
    """Faults that make a tokenizer unusable for the encoder of this config.json."""
    rows = settings.get("vocab_size")
    vocabulary = tokenizer.get_vocab()
    if isinstance(rows, int) and (beyond := sorted((n, piece) for piece, n in vocabulary.items() if n >= rows)):
        shown = some(f"{piece!r} ({n})" for n, piece in beyond)
        yield (
            f"the tokenizer has {len(vocabulary)} pieces, numbered up to {beyond[-1][0]}, but the embedding has {rows} rows: none"
            f" for {shown}; give the tokenizer that the encoder was trained with, or an encoder with a row for each"
            f" (model.resize_token_embeddings({beyond[-1][0] + 1}))"
        )
    if masks and tokenizer.mask_token_id is None:
        yield "the tokenizer has no mask token, which further pre-training needs: set mask_token in tokenizer_config.json"


def tokenizer_notices(tokenizer: Any, settings: dict[str, Any]) -> Iterator[str]:
    """Signs that a tokenizer is not the one that the encoder was trained with."""
    rows, vocabulary = settings.get("vocab_size"), tokenizer.get_vocab()
    if isinstance(rows, int) and len(vocabulary) < LEAST_USED * rows:
        yield f"the tokenizer has {len(vocabulary)} pieces for {rows} rows of the embedding: is it this encoder's?"
    differ = []
    for name in IDS:
        here, there = settings.get(f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id", None)
        if None not in (here, there) and here != there:
            differ.append(f"{name} {here} and {there}")
    if differ:
        yield f"config.json and the tokenizer number special tokens differently: {', '.join(differ)}; is it this encoder's?"
    if not special_tokens(tokenizer).count:
        yield (
            "the tokenizer puts no special tokens round a text: pooling pooled and cls read its first piece (set cls_token and"
            " sep_token in tokenizer_config.json)"
        )
    yield from _case_notices(tokenizer)


def _case_notices(tokenizer: Any) -> Iterator[str]:
    special = set(tokenizer.all_special_tokens)
    words = [
        piece for piece in tokenizer.get_vocab() if piece not in special and sum(c.isascii() and c.isalpha() for c in piece) > 1
    ]
    capital = [piece for piece in words if any("A" <= c <= "Z" for c in piece)]
    cased = len(capital) > CAPITALS * len(words)
    lowers = tokenizer.tokenize("A Big WORD") == tokenizer.tokenize("a big word")
    if len(words) < LETTERS:
        return
    if lowers and cased:
        share = 100 * len(capital) / len(words)
        yield (
            f"the tokenizer makes texts lower-case, but {share:.0f}% of its pieces have capitals ({some(sorted(capital))}): is"
            " do_lower_case in tokenizer_config.json right?"
        )
    if not lowers and not capital:
        yield (
            "the tokenizer keeps capitals, but none of its pieces has any, so that words with capitals are read badly: is"
            " do_lower_case in tokenizer_config.json right?"
        )


def unknown_notices(tokenizer: Any, texts: Sequence[str]) -> Iterator[str]:
    """A notice on the share of unknown pieces in a sample of texts, if it is large, with the commonest of them."""
    unknown = tokenizer.unk_token_id
    if unknown is None or not texts:
        return
    sample = [texts[i * len(texts) // min(SAMPLE, len(texts))] for i in range(min(SAMPLE, len(texts)))]
    encoded = tokenizer(sample, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    count = sum(map(len, encoded["input_ids"]))
    spans: Counter[str] = Counter()
    for text, ids, offsets in zip(sample, encoded["input_ids"], encoded.get("offset_mapping", [()] * len(sample)), strict=True):
        spans.update(text[slice(*place)].strip() for piece, place in zip(ids, offsets, strict=False) if piece == unknown)
    share = sum(ids.count(unknown) for ids in encoded["input_ids"]) / max(1, count)
    if share > MOST_UNKNOWN:
        common = f", most often {', '.join(repr(span[:20]) for span, _ in spans.most_common(5))}" if spans else ""
        yield (
            f"{100 * share:.0f}% of the pieces of {len(sample)} training texts are unknown to the tokenizer{common}: it does not"
            " suit these texts"
        )
