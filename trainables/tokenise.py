"""Texts to pieces, once per (texts, tokenizer), into memory-mapped Arrow; what is cut off is decided when batches are made.

Pieces are stored without special tokens. Which ones a text gets is learnt from what the tokenizer itself does: BERT and RoBERTa
put them round the text, XLNet behind it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainables.faults import ConfigError
from trainables.text_pairs import PairTokens, longest_first

Tokenizer = Any
"""A transformers tokenizer. It must not change after its first use here."""
Ids = np.ndarray[Any, np.dtype[np.int32]]

FORMAT = 1
BATCH_TEXTS, BATCH_CHARACTERS = 1024, 2_000_000
"""Texts tokenised at a time: what bounds the memory. A single longer text is a batch of its own."""
WORD_MARKS = ("▁", "Ġ")
"""What SentencePiece and byte-level BPE write for the space before a word."""


@dataclass(frozen=True)
class Special:
    """Special tokens of a tokenizer, and what masking needs to know about its vocabulary."""

    prefix: tuple[int, ...]
    """Ids before the text: [CLS] for BERT, none for XLNet."""
    suffix: tuple[int, ...]
    """Ids behind it: [SEP] for BERT, <sep> <cls> for XLNet."""
    prefix_types: tuple[int, ...]
    """Token types of the prefix."""
    suffix_types: tuple[int, ...]
    """Token types of the suffix."""
    text_type: int
    """Token type of the text."""
    pad: int
    mask: int | None
    """None where the tokenizer has no mask token."""
    reserved: tuple[int, ...]
    """Ids that stand for no text: all special ones except the unknown piece. They are never predicted."""
    ordinary: Ids = field(compare=False, repr=False)
    """The vocabulary less all special ids, ascending: random replacements come from here."""
    pair: PairTokens
    """Special tokens of a pair of texts."""

    @property
    def count(self) -> int:
        """Special tokens of a text."""
        return len(self.prefix) + len(self.suffix)

    def wrap(self, ids: Ids) -> Ids:
        """A text's pieces with its special tokens, int32 [len(ids) + count]."""
        return np.concatenate((np.array(self.prefix, np.int32), ids, np.array(self.suffix, np.int32))).astype(np.int32)


def special_tokens(tokenizer: Tokenizer) -> Special:
    """Special tokens as the tokenizer itself adds them. Raises ConfigError if it does more than to put some round the texts."""
    (prefix, suffix), (prefix_types, suffix_types), (text_type,) = _added(tokenizer, 1)
    special = set(tokenizer.all_special_ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # never attended to
    return Special(
        prefix=prefix,
        suffix=suffix,
        prefix_types=prefix_types,
        suffix_types=suffix_types,
        text_type=text_type,
        pad=pad,
        mask=tokenizer.mask_token_id,
        reserved=tuple(sorted(special - {tokenizer.unk_token_id})),
        ordinary=np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int32),
        pair=PairTokens(*_added(tokenizer, 2)),
    )


def _added(tokenizer: Tokenizer, texts: int) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """(ids before, between and behind so many texts, their token types, the token types of the texts)."""
    whole = tokenizer(*["a text"] * texts, return_token_type_ids=True)
    ids, types = list(whole["input_ids"]), list(whole["token_type_ids"])
    text = list(tokenizer("a text", add_special_tokens=False)["input_ids"])
    gaps, text_types, at = [], [], 0
    for _ in range(texts):
        start = next((i for i in range(at, len(ids) - len(text) + 1) if ids[i : i + len(text)] == text), None)
        if not text or start is None:
            raise ConfigError(
                [f"the tokenizer {type(tokenizer).__name__} changes a text's pieces when it adds special tokens: {ids}, {text}"]
            )
        gaps.append(slice(at, start))
        text_types.append(types[start])
        at = start + len(text)
    gaps.append(slice(at, None))
    return tuple(tuple(ids[gap]) for gap in gaps), tuple(tuple(types[gap]) for gap in gaps), tuple(text_types)


def truncate(pieces: Ids, budget: int, how: str, head_tokens: int = 0) -> Ids:
    """At most `budget` pieces of a text: its head, its tail, or `head_tokens` from the head and the rest from the tail.

    Sun et al. 2019, section 5.3.1: with BERT's 512 the budget is 510, and head+tail keeps the first 128 and the last 382. A text
    within the budget stays whole. Raises ValueError for an unknown `how` and for head_tokens outside 0..budget.
    """
    if budget < 1 or how not in ("head", "tail", "head+tail") or (how == "head+tail" and not 0 <= head_tokens <= budget):
        raise ValueError(f"cannot keep {budget} pieces as {how!r} with head_tokens {head_tokens}")
    if len(pieces) <= budget:
        return pieces
    head = {"head": budget, "tail": 0}.get(how, head_tokens)
    return np.concatenate((pieces[:head], pieces[len(pieces) - (budget - head) :]))


def truncate_pair(a: Ids, b: Ids, budget: int, how: str, head_tokens: int = 0) -> tuple[Ids, Ids]:
    """At most `budget` pieces of two texts together, the longer cut first, each as `truncate` cuts it to its share.

    Under head+tail a text that is cut keeps at least one piece from its end. Raises ValueError for a budget below 2.
    """
    if budget < 2:
        raise ValueError(f"cannot keep a piece of both texts in {budget}")
    shares = longest_first(len(a), len(b), budget)
    first, second = (truncate(text, n, how, min(head_tokens, n - 1)) if n else text for text, n in zip((a, b), shares, strict=True))
    return first, second


class Pieces:
    """The pieces of many texts in a memory-mapped file: opened when first read, cheap to pickle, no bigger than what is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Ids:
        """Pieces of a text, int32 [pieces], without special tokens."""
        batch, start, end = self._place(index)
        ids: Ids = self._batches[batch][1][start:end]
        return ids

    def words(self, index: int, first: int = 0, last: int | None = None) -> Ids:
        """For the pieces first..last-1 of a text, or for all, the number of their word, int32 [pieces], ascending."""
        batch, start, end = self._place(index)
        begins = self._batches[batch][2][start:end][first:last]
        return np.cumsum(begins, dtype=np.int32)

    @cached_property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Number of pieces of every text, [texts]."""
        return np.concatenate([np.diff(offsets) for offsets, _, _ in self._batches] or [np.zeros(0, np.int64)])

    def _place(self, index: int) -> tuple[int, int, int]:
        """(batch, first piece, piece after the last) of a text."""
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        offsets = self._batches[batch][0]
        row = index - int(self._starts[batch])
        return batch, int(offsets[row]), int(offsets[row + 1])

    @cached_property
    def _starts(self) -> np.ndarray[Any, Any]:
        """First text of every batch."""
        return np.cumsum([0, *(len(offsets) - 1 for offsets, _, _ in self._batches)])[:-1]

    @cached_property
    def _batches(self) -> list[tuple[np.ndarray[Any, Any], ...]]:
        """(offsets [texts + 1], ids [pieces], begins [pieces]) of every batch, views of the mapped file."""
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
        found: list[tuple[np.ndarray[Any, Any], ...]] = []
        for i in range(reader.num_record_batches):
            ids, begins = reader.get_batch(i).columns
            found.append((ids.offsets.to_numpy(), ids.values.to_numpy(), begins.values.to_numpy()))
        return found


def pieces(texts: Sequence[str], tokenizer: Tokenizer, cache: Path, key: str) -> Pieces:
    """Pieces of `texts`, tokenised once per (key, tokenizer) into the folder `cache`; `key` is the digest of the texts.

    Written aside and renamed, so that several processes may ask at once and a killed one leaves nothing that is read.
    """
    name = hashlib.sha256(json.dumps([FORMAT, key, tokenizer_digest(tokenizer)]).encode()).hexdigest()[:32]
    path = Path(cache) / f"{name}.arrow"
    if not _sound(path, len(texts)):
        _write(path, texts, tokenizer)
    return Pieces(path)


def _sound(path: Path, count: int) -> bool:
    import pyarrow as pa

    try:
        return len(Pieces(path)) == count
    except (OSError, ValueError, pa.ArrowException):
        return False  # not there, or torn by a machine that went down


def _write(path: Path, texts: Sequence[str], tokenizer: Tokenizer) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("*.part"):
        if old.exists() and time.time() - old.stat().st_mtime > 86_400:
            old.unlink(missing_ok=True)  # of a process that was killed
    schema = pa.schema([("ids", pa.large_list(pa.int32())), ("begins", pa.large_list(pa.uint8()))])
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        with pa.OSFile(part, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in _batched(texts):
                ids, begins = _tokenise(batch, tokenizer)
                offsets = pa.array(np.cumsum([0, *map(len, ids)], dtype=np.int64))
                columns = [pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(column))) for column in (ids, begins)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        os.chmod(part, 0o644)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == BATCH_TEXTS or size + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _tokenise(texts: list[str], tokenizer: Tokenizer) -> tuple[list[Ids], list[np.ndarray[Any, Any]]]:
    """(pieces of every text, 1 where a word begins and 0 elsewhere)."""
    # verbose=False: no warning that a text is longer than the encoder takes. It will be cut.
    only_ids = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    found = tokenizer(texts, **only_ids)
    ids = [np.array(row, dtype=np.int32) for row in found["input_ids"]]
    marked, continuing = _word_marks(tokenizer)
    if found.encodings is None:  # a tokenizer in pure Python does not tell words
        return ids, [_first(marked[row] if marked.any() else ~continuing[row]) for row in ids]
    begins = []
    for row, encoding in zip(ids, found.encodings, strict=True):
        words = np.fromiter((-1 if word is None else word for word in encoding.word_ids), np.int64, len(row))
        # Marks too: where spaces do not split, a whole text is one "word" to the tokenizer.
        begins.append(_first((np.diff(words, prepend=-2) != 0) | marked[row]))
    return ids, begins


def _first(begins: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    begins = begins.astype(np.uint8)
    begins[:1] = 1
    return begins


@lru_cache(maxsize=8)
def _word_marks(tokenizer: Tokenizer) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Per id of the vocabulary: (begins with the mark of a word, goes on with a word)."""
    vocabulary = tokenizer.get_vocab()
    marked = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    continuing = marked.copy()
    for piece, i in vocabulary.items():
        marked[i], continuing[i] = piece.startswith(WORD_MARKS), piece.startswith("##")
    return marked, continuing


@lru_cache(maxsize=8)
def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """sha256 of all that decides which pieces a text becomes. Truncation and padding, which a call sets, do not."""
    about: Any = tokenizer.get_vocab()
    if tokenizer.is_fast:
        about = json.loads(tokenizer.backend_tokenizer.to_str())
        about = {name: value for name, value in about.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps([type(tokenizer).__name__, about], sort_keys=True).encode()).hexdigest()


def train_wordpiece(texts: Sequence[str], size: int) -> Tokenizer:
    """A lower-casing BERT tokenizer with at most `size` pieces, trained on `texts`: the same for the same texts, always.

    The library numbers the pieces of its alphabet in the order of a hash map, which differs between runs and decides ties; so the
    alphabet is counted here and given to it in a fixed order.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(ranked[: (size - len(special)) // 2])
    inner = [
        f"##{c}" for c in alphabet if len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{c}a"))) == 1
    ]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*special, *alphabet, *inner],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=backend.get_vocab())
