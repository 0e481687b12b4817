"""Tokenise texts once per (texts, tokenizer) into memory-mapped Arrow files. Truncation happens later, when batches are built.

Pieces are stored without special tokens; `special_tokens.py` adds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainables.batches.special_tokens import Ids, Tokenizer
from trainables.batches.tokenizer_library import differing, parts_of

FORMAT = 1
BATCH_TEXTS, BATCH_CHARACTERS = 1024, 2_000_000
"""Limits of a tokenised batch, which bound the memory. A single longer text is a batch of its own."""
WORD_MARKS = ("▁", "Ġ")
"""Prefixes of SentencePiece and byte-level BPE for the space before a word."""

ONLY_IDS = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
"""Arguments of a tokenizer. Not verbose: no warning that a text is too long for the encoder, which will be truncated."""


class Pieces:
    """Pieces of many texts in a memory-mapped file: opened at the first access, cheap to pickle."""

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
        """Word numbers of the pieces first..last-1 of a text, int32 [pieces], ascending; by default of all pieces."""
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
        batches: list[tuple[np.ndarray[Any, Any], ...]] = []
        for i in range(reader.num_record_batches):
            ids, begins = reader.get_batch(i).columns
            batches.append((ids.offsets.to_numpy(), ids.values.to_numpy(), begins.values.to_numpy()))
        return batches


def pieces(texts: Sequence[str], tokenizer: Tokenizer, cache: Path, key: str) -> Pieces:
    """Pieces of `texts`, tokenised once per (key, tokenizer) into the folder `cache`; `key` is the digest of the texts.

    The file is written under a temporary name and renamed, so concurrent and killed processes do no harm.
    """
    name = hashlib.sha256(json.dumps([FORMAT, key, tokenizer_digest(tokenizer)]).encode()).hexdigest()[:32]
    path = Path(cache) / f"{name}.arrow"
    if not _sound(path, len(texts)):
        _write(path, texts, tokenizer)
    return Pieces(path)


def tokenised(texts: Iterable[str], tokenizer: Tokenizer) -> list[Ids]:
    """Pieces of every text in memory, int32 [pieces], without special tokens."""
    return [np.array(ids, dtype=np.int32) for batch in _batched(texts) for ids in tokenizer(batch, **ONLY_IDS)["input_ids"]]


def _sound(path: Path, count: int) -> bool:
    import pyarrow as pa

    try:
        return len(Pieces(path)) == count
    except (OSError, ValueError, pa.ArrowException):
        return False  # missing, or truncated by a crash of the machine


def _write(path: Path, texts: Sequence[str], tokenizer: Tokenizer) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("*.part"):
        with suppress(FileNotFoundError):  # another process has finished or removed it
            if time.time() - old.stat().st_mtime > 86_400:
                old.unlink()  # left by a killed process
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
    encoded = tokenizer(texts, **ONLY_IDS)
    ids = [np.array(row, dtype=np.int32) for row in encoded["input_ids"]]
    marked, continuing = _word_marks(tokenizer)
    if encoded.encodings is None:  # a tokenizer in pure Python does not report words
        return ids, [_first(marked[row] if marked.any() else ~continuing[row]) for row in ids]
    begins = []
    for row, encoding in zip(ids, encoded.encodings, strict=True):
        words = np.fromiter((-1 if word is None else word for word in encoding.word_ids), np.int64, len(row))
        # Marks too: for some tokenizers a whole text is one "word", since spaces do not split it.
        begins.append(_first((np.diff(words, prepend=-2) != 0) | marked[row]))
    return ids, begins


def _first(begins: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    begins = begins.astype(np.uint8)
    begins[:1] = 1
    return begins


@lru_cache(maxsize=1)  # the one tokenizer of a process; the vocabulary is walked through
def _word_marks(tokenizer: Tokenizer) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(begins with a word mark, continues a word) for every id of the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    marked = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    continuing = marked.copy()
    for piece, i in vocabulary.items():
        marked[i], continuing[i] = piece.startswith(WORD_MARKS), piece.startswith("##")
    return marked, continuing


@lru_cache(maxsize=1)  # the one tokenizer of a process, asked for by every split
def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """sha256 of everything that determines the pieces of a text. Truncation and padding are excluded: every call sets them."""
    content: Any = tokenizer.get_vocab()
    others: dict[str, str] = {}
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
        others = differing([*parts_of(content)])
    determines = [type(tokenizer).__name__, content, *([others] if others else [])]
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
