"""Whether the installed library of tokenizers computes what it computed when stages got their ids.

A stage's id has the files of its tokenizer, and no version of a library: most versions give the same pieces. So the parts of
tokenizers are tried on fixed texts, the properties of all common characters among them, and the digests of what they return are
compared with recorded ones. A part that differs becomes part of the ids of the tokenizers that have it, and of no others.

Tables that lie in a tokenizer's own files (`Precompiled`, `Replace`) are in the digest of these files. The conversion of older
files by transformers is not tried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

RECORDED = {
    "BertNormalizer": "7f957e26e9d05fcb",
    "NFC": "c2f35ad2dad8d17f",
    "NFD": "54f2eaa446e1470b",
    "NFKC": "c1eb325feff5fe4d",
    "NFKD": "10cdaaee1b8d189f",
    "Lowercase": "8b14373416abf6ce",
    "StripAccents": "1b5d10a80e0420ae",
    "Nmt": "09eea5e32c36eb55",
    "BertPreTokenizer": "c0221633e3203a24",
    "ByteLevel": "fcc385ae47f61299",
    "Metaspace": "287a395fe0d5d2c7",
    "Whitespace": "95b2290ae7d068c1",
    "WhitespaceSplit": "524f5a39a7d16842",
    "Digits": "105928b3cbf6a6fe",
    "Punctuation": "54b98a722b9013f6",
    "UnicodeScripts": "5fb0857316e1633f",
    "Split": "3fef7c194509464a",
    "WordPiece": "6241c2b52a57eaad",
    "BPE": "13a9be21f7d8472c",
    "Unigram": "3c5c8d6a8ca98062",
    "WordPieceTrainer": "e7a223bf2dd549bf",
}
"""{part: digest of what it returned}, by tokenizers 0.22.2 to 0.23.3. Write it anew only with another `FORMAT_VERSION`: else stages
of a version that differs would have the ids of those before it."""
TRAINED = ("BertNormalizer", "BertPreTokenizer", "WordPiece", "WordPieceTrainer")
"""The parts of a tokenizer from scratch."""
PIECES = {"[UNK]": 0, "a": 1, "b": 2, "##a": 3, "##b": 4, "##bc": 5, "abc": 6, "ab": 7, "##ca": 8, "c": 9}
SCORES = [("[UNK]", 0.0), ("a", -2.0), ("b", -2.5), ("c", -4.0), ("ab", -3.5), ("bc", -5.0), ("abc", -7.0), ("ca", -5.5)]
MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "a")]
SENTENCES = (
    "The film was slow, but the actors were wonderful and the ending surprised everyone.",
    "Slower films are often better: wonder, waiting, and an ending that nobody expected!",
    "I would not watch it again; the actors' naïve café talk went on for 90 minutes.",
)
BLOCKS = (
    range(0x20, 0x3400),
    range(0x3400, 0xA000, 16),
    range(0xA000, 0xAC00),
    range(0xAC00, 0xD800, 16),
    range(0xE000, 0xF900, 16),
    range(0xF900, 0x10600),
    range(0x10C80, 0x10D00),
    range(0x118A0, 0x118E0),
    range(0x16E40, 0x16E80),
    range(0x1D400, 0x1D800, 4),
    range(0x1E900, 0x1FB00),
    range(0x20000, 0x30000, 256),
)
"""Characters: all of alphabets, signs and emoji; some of the ideographs and syllables, which have properties by their range."""
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2, for the engine of patterns."""


def differing(parts: Collection[str]) -> dict[str, str]:
    """{part: digest} of those of these parts that do not return what is recorded; others than the recorded are not tried."""
    return {part: digest for part in sorted(RECORDED.keys() & set(parts)) if (digest := _digest(part)) != RECORDED[part]}


def parts_of_folder(folder: Path | None) -> Collection[str]:
    """Parts of the tokenizer in a folder; all of them where no tokenizer.json says which; None: one from scratch."""
    if folder is None:
        return TRAINED
    try:
        return _parts_of_file(path := folder / "tokenizer.json", path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return RECORDED


@lru_cache(maxsize=64)  # every recipe of a study asks
def _parts_of_file(path: Path, _: int) -> frozenset[str]:
    return frozenset(parts_of(json.loads(path.read_bytes())))


def parts_of(content: Any) -> Iterator[str]:
    """Names of the parts of a tokenizer whose content is given as JSON."""
    for name in ("normalizer", "pre_tokenizer", "model"):
        yield from _types(content.get(name) if isinstance(content, dict) else None)


def _types(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for key in ("normalizers", "pretokenizers"):
            for member in value.get(key) or ():
                yield from _types(member)


@lru_cache  # once per process
def _digest(part: str) -> str:
    """Digest of what a part returns; `absent` if the library has it no longer, or not in this form."""
    try:
        returned = "\n".join(_tries()[part]())
    except (AttributeError, TypeError, ValueError):
        return "absent"
    return hashlib.sha256(returned.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@lru_cache(maxsize=1)
def _characters() -> list[str]:
    """Texts with the characters of `BLOCKS`, each after a letter with which it may combine."""
    codes = [code for block in BLOCKS for code in block]
    return ["".join(f"a{chr(code)}" for code in codes[first : first + 512]) for first in range(0, len(codes), 512)]


def _tries() -> dict[str, Callable[[], Iterable[str]]]:
    """{part: what it returns on the fixed texts, as texts}."""
    from tokenizers import Regex, models, normalizers, pre_tokenizers

    def normalizer(name: str) -> Callable[[], Iterable[str]]:
        return lambda: map(getattr(normalizers, name)().normalize_str, _characters())

    def pre_tokenizer(name: str, *arguments: Any) -> Callable[[], Iterable[str]]:
        texts = [*_characters(), *SENTENCES]
        return lambda: (str(getattr(pre_tokenizers, name)(*arguments).pre_tokenize_str(text)) for text in texts)

    def model(name: str, *arguments: Any, **more: Any) -> Callable[[], Iterable[str]]:
        words = ("".join(letters) for length in range(1, 7) for letters in product("abcx", repeat=length))
        return lambda: _tokens(getattr(models, name)(*arguments, **more), words)

    byte_pairs = {piece: number for number, piece in enumerate(("[UNK]", "a", "b", "c", *map("".join, MERGES)))}
    return {
        **{name: normalizer(name) for name in ("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
        **{name: pre_tokenizer(name) for name in ("BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit")},
        **{name: pre_tokenizer(name) for name in ("Digits", "Punctuation", "UnicodeScripts")},
        "Split": pre_tokenizer("Split", Regex(SPLIT), "isolated"),
        "WordPiece": model("WordPiece", PIECES, unk_token="[UNK]"),
        "BPE": model("BPE", byte_pairs, MERGES, unk_token="[UNK]"),
        "Unigram": model("Unigram", SCORES, 0),
        "WordPieceTrainer": _trained,
    }


def _tokens(model: Any, words: Iterable[str]) -> Iterator[str]:
    return (f"{word} " + " ".join(token.value for token in model.tokenize(word)) for word in words)


def _trained() -> Iterable[str]:
    from trainables.batches.train_wordpiece import trained

    return map(str, sorted(trained(SENTENCES * 3, 120).get_vocab().items()))
