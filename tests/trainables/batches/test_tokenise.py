"""Pieces as transformers makes them, the special tokens of four kinds of tokenizer, truncation, and the cache."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import reviews
from trainables.batches import tokenise
from trainables.batches.special_tokens import special_tokens
from trainables.batches.tokenise import Pieces, pieces, tokenizer_digest
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.batches.truncate import truncate
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews()]
ODD = [
    "",
    " ",
    "...",
    "naïve 電影 🎬 Ünïcödé",
    "a [SEP] b <mask> c </s>",
    "tabs\tand\nlines  and   spaces ",
    "x" * 3000,
    "\u200b",
    "it's",
]


@cache
def wordpiece() -> Any:
    """BERT's kind."""
    return train_wordpiece(TEXTS, 600)


@cache
def byte_bpe() -> Any:
    """RoBERTa's kind."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(TEXTS, vocab_size=600, special_tokens=special, show_progress=False)
    model = json.loads(backend.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def unigram(special: list[str], unknown: str) -> list[tuple[str, float]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token=unknown, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]


@cache
def xlnet() -> Any:
    """XLNet's kind: special tokens behind the text."""
    from transformers import XLNetTokenizer

    return XLNetTokenizer(vocab=unigram(["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"], "<unk>"), unk_id=0)


@cache
def xlm_roberta() -> Any:
    """XLM-RoBERTa's kind."""
    from transformers import XLMRobertaTokenizer

    return XLMRobertaTokenizer(vocab=unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>"))


KINDS: list[Callable[[], Any]] = [wordpiece, byte_bpe, xlnet, xlm_roberta]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


# Pieces


@kinds
def test_pieces_are_those_of_transformers(kind: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = kind()
    tokenizer.model_max_length = 16
    texts = [*TEXTS[:200], *ODD]
    with caplog.at_level(logging.DEBUG):
        found = pieces(texts, tokenizer, tmp_path, "data")
        assert "longer than" not in caplog.text  # they will be cut
    assert len(found) == len(texts)
    for i, text in enumerate(texts):
        expected = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert found[i].tolist() == expected
        assert found.lengths[i] == len(expected)
    assert found[0].dtype == np.int32


@kinds
def test_special_tokens_make_what_transformers_makes(kind: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = kind()
    special = special_tokens(tokenizer)
    texts = [*TEXTS[:50], *ODD]
    found = pieces(texts, tokenizer, tmp_path, "data")
    for i, text in enumerate(texts):
        whole = tokenizer(text, return_token_type_ids=True, verbose=False)
        assert special.wrap(found[i]).tolist() == whole["input_ids"]
        types = [*special.prefix_types, *[special.text_type] * len(found[i]), *special.suffix_types]
        assert types == whole["token_type_ids"]
    assert special.count == tokenizer.num_special_tokens_to_add()
    assert special.mask == tokenizer.mask_token_id
    assert special.pad == tokenizer.pad_token_id
    assert set(special.ordinary) | set(tokenizer.all_special_ids) == set(range(len(tokenizer)))
    assert not set(special.ordinary) & set(tokenizer.all_special_ids)
    assert set(special.reserved) == set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def test_where_special_tokens_stand() -> None:
    bert, xl = special_tokens(wordpiece()), special_tokens(xlnet())
    assert wordpiece().convert_ids_to_tokens([*bert.prefix, *bert.suffix]) == ["[CLS]", "[SEP]"]
    assert xl.prefix == ()
    assert xlnet().convert_ids_to_tokens(list(xl.suffix)) == ["<sep>", "<cls>"]
    assert xl.suffix_types == (0, 2)
    assert byte_bpe().convert_ids_to_tokens([*special_tokens(byte_bpe()).prefix]) == ["<s>"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_words_of_pieces(kind: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = kind()
    text = "wonderfully unbelievable characters wonderfully portrayed"
    found = pieces([text, "", "x"], tokenizer, tmp_path, "words")
    words = [tokenizer.decode(found[0][found.words(0) == word]).strip() for word in range(1, 6)]
    assert words == text.split()
    assert len(found[0]) > 5  # else there would be nothing to group
    assert found.words(1).tolist() == []
    assert np.array_equal(np.diff(found.words(0, 3, 9)), np.diff(found.words(0)[3:9]))


def test_words_where_the_tokenizer_does_not_split_at_spaces(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("▁c", -2.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    found = pieces(["ab c ab"], PreTrainedTokenizerFast(tokenizer_object=backend), tmp_path, "x")
    assert found[0].tolist() == [1, 2, 3, 1, 2]
    assert found.words(0).tolist() == [1, 1, 2, 3, 3]


def test_a_tokenizer_that_rewrites_the_text_is_refused() -> None:
    class Strange:
        all_special_ids = (0,)

        def __call__(self, text: str, add_special_tokens: bool = True, **_: object) -> dict[str, list[int]]:
            ids = [0, 1, 0, 2, 0] if add_special_tokens else [1, 2]
            return {"input_ids": ids, "token_type_ids": [0] * len(ids)}

    with pytest.raises(ConfigError, match="the tokenizer Strange changes a text's pieces"):
        special_tokens(Strange())


# Truncation


@pytest.mark.parametrize("length", [1, 509, 510, 511, 2000])
def test_truncation_is_the_papers(length: int) -> None:
    t = np.arange(length, dtype=np.int32)
    cut = length > 510
    assert truncate(t, 510, "head").tolist() == list(t[:510])
    assert truncate(t, 510, "tail").tolist() == list(t[-510:])
    assert truncate(t, 510, "head+tail", 128).tolist() == ([*t[:128], *t[-382:]] if cut else list(t))


@kinds
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_truncation_leaves_room_for_the_special_tokens(kind: Callable[[], Any], over: int, tmp_path: Path) -> None:
    special = special_tokens(kind())
    found = pieces([" ".join(TEXTS)], kind(), tmp_path, "long")[0]
    budget = 64 - special.count
    text = found[: budget + over]
    for how in ("head", "tail", "head+tail"):
        whole = special.wrap(truncate(text, budget, how, 20))
        assert len(whole) == min(64, len(text) + special.count)
        assert tuple(whole[: len(special.prefix)]) == special.prefix
        assert tuple(whole[len(whole) - len(special.suffix) :]) == special.suffix


@given(
    length=st.integers(0, 50),
    budget=st.integers(1, 30),
    head=st.integers(0, 30),
    how=st.sampled_from(["head", "tail", "head+tail"]),
)
@settings(max_examples=200)
def test_truncation_keeps_both_ends_and_never_more(length: int, budget: int, head: int, how: str) -> None:
    t, head = np.arange(length, dtype=np.int32), min(head, budget)
    kept = truncate(t, budget, how, head).tolist()
    assert len(kept) == min(length, budget)
    assert kept == sorted(set(kept))
    if length > budget:
        first = {"head": budget, "tail": 0, "head+tail": head}[how]
        assert kept == [*range(first), *range(length - budget + first, length)]


@pytest.mark.parametrize(
    ("budget", "how", "head"), [(0, "tail", 0), (10, "middle", 0), (10, "head+tail", 11), (10, "head+tail", -1)]
)
def test_truncation_refuses_nonsense(budget: int, how: str, head: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {budget} pieces as '{how.replace('+', '[+]')}'"):
        truncate(np.arange(20, dtype=np.int32), budget, how, head)


# The cache


def test_tokenised_once_per_texts_and_tokenizer(tmp_path: Path) -> None:
    first = pieces(TEXTS[:9], wordpiece(), tmp_path, "data")
    written = first.path.stat()
    again = pieces(TEXTS[:9], wordpiece(), tmp_path, "data")
    assert (again.path, again.path.stat().st_mtime_ns, again.path.stat().st_ino) == (
        first.path,
        written.st_mtime_ns,
        written.st_ino,
    )
    pieces(TEXTS[:9], wordpiece(), tmp_path, "other data")
    pieces(TEXTS[:9], byte_bpe(), tmp_path, "data")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_torn_file_is_written_again(tmp_path: Path) -> None:
    path = pieces(TEXTS[:9], wordpiece(), tmp_path, "data").path
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"something else"):
        path.write_bytes(torn)
        assert pieces(TEXTS[:9], wordpiece(), tmp_path, "data")[8].size
        assert path.read_bytes() == whole


def test_left_overs_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    for part in (old, new):
        part.write_bytes(b"")
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    pieces(TEXTS[:9], wordpiece(), tmp_path, "data")
    assert not old.exists()
    assert new.exists()  # someone may still be writing it


def test_several_batches_are_one_sequence_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pieces(TEXTS, wordpiece(), tmp_path / "one", "data")
    monkeypatch.setattr(tokenise, "BATCH_TEXTS", 7)
    monkeypatch.setattr(tokenise, "BATCH_CHARACTERS", 200)
    parts = pieces(TEXTS, wordpiece(), tmp_path / "many", "data")
    for i in (0, 6, 7, 100, 795):
        assert parts[i].tolist() == whole[i].tolist()
        assert parts.words(i).tolist() == whole.words(i).tolist()
    assert parts.lengths.tolist() == whole.lengths.tolist()
    with pytest.raises(IndexError, match="text 796 of 796"):
        parts[796]
    assert len(list(parts)) == 796


def test_no_texts(tmp_path: Path) -> None:
    assert len(pieces([], wordpiece(), tmp_path, "none")) == 0


def test_pieces_are_opened_late_and_cheap_to_send(tmp_path: Path) -> None:
    found = pieces(TEXTS, wordpiece(), tmp_path, "data")
    assert found[3].size
    sent = pickle.dumps(found)
    assert len(sent) < 1000
    assert pickle.loads(sent)[3].tolist() == found[3].tolist()
    assert Pieces(tmp_path / "nowhere").path.name == "nowhere"  # nothing is read yet


def ask(folder: Path, results: Any) -> None:
    found = pieces(TEXTS, wordpiece(), folder, "data")
    results.put([int(found[i].sum()) for i in range(len(found))])


def test_several_processes_may_ask_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=ask, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(timeout=30)
    assert answers[0] == answers[1]
    assert len(list(tmp_path.iterdir())) == 1


def test_five_million_characters(tmp_path: Path) -> None:
    end = " ".join(TEXTS)
    long = ("word " + "x" * 495) * 10_000 + end  # over-long "words", as in files of genes or base64
    found = pieces([long, end], wordpiece(), tmp_path, "long")
    assert len(long) > 5_000_000
    assert found[0][-1000:].tolist() == found[1][-1000:].tolist()
    assert len(truncate(found[0], 510, "head+tail", 128)) == 510


# Digest and trained vocabulary


def test_the_digest_is_of_what_makes_pieces(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_wordpiece(TEXTS, 600)
    assert tokenizer_digest(tokenizer) == tokenizer_digest(wordpiece())
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded("cut and padded", truncation=True, max_length=8, padding="max_length")  # leaves its mark in the backend
    assert tokenizer_digest(loaded) == tokenizer_digest(wordpiece())
    assert special_tokens(loaded) == special_tokens(wordpiece())
    assert len({tokenizer_digest(kind()) for kind in KINDS}) == 4
    assert tokenizer_digest(train_wordpiece(TEXTS, 500)) != tokenizer_digest(wordpiece())


def test_the_trained_vocabulary_is_the_same_in_every_process() -> None:
    code = (
        "from tests.helpers import reviews; from trainables.batches.tokenise import tokenizer_digest;"
        "from trainables.batches.train_wordpiece import train_wordpiece;"
        "print(tokenizer_digest(train_wordpiece([t for t, _ in reviews()], 600)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == tokenizer_digest(wordpiece())


@pytest.mark.parametrize("size", [100, 400, 3000])
def test_the_trained_vocabulary_has_the_size_asked_for(size: int) -> None:
    tokenizer = train_wordpiece(TEXTS, size)
    assert size * 0.9 < len(tokenizer) <= size
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(tokenizer.all_special_ids) == list(range(5))
    assert "".join(tokenizer.tokenize("WONDERFUL")).replace("##", "") == "wonderful"


def test_a_vocabulary_for_signs_without_end() -> None:
    texts = ["".join(chr(0x4E00 + (i * 37 + j) % 4000) for j in range(100)) for i in range(50)]
    tokenizer = train_wordpiece([*texts, "plain words too " * 50], 300)
    assert len(tokenizer) <= 300
    assert tokenizer.unk_token not in tokenizer.tokenize("plain words")
