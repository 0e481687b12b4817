"""A tokenizer against the encoder beside it and the texts that it is to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertTokenizer

from tests.helpers import TINY_BERT, reviews
from tests.trainables.families import FAMILIES, checkpoint
from trainables.encoder.check import check_encoder
from trainables.encoder.load import load_base
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews(limit=100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT, to be changed."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))


def notices(folder: Path, texts: list[str] = TEXTS, masks: bool = True) -> list[str]:
    place = f"encoder.folder: {str(folder)!r}: "
    found = check_encoder(Encoder(folder=str(folder)), texts, masks)
    assert all(each.startswith(place) for each in found)
    return [each.removeprefix(place) for each in found]


def resaved(folder: Path, change: Callable[[Any], Any]) -> Path:
    """Save the tokenizer again after a change, which may answer with another one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (change(tokenizer) or tokenizer).save_pretrained(folder)
    return folder


def config(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_nothing_is_said_of_an_encoder_with_its_own_tokenizer() -> None:
    for kind in FAMILIES:
        assert notices(checkpoint(kind)) == [], kind


def test_pieces_without_a_row_are_refused(folder: Path) -> None:
    resaved(folder, lambda tokenizer: tokenizer.add_tokens(["[URL]", "[USER]", "[E0]", "[E1]"]) and None)
    for ask in (lambda: notices(folder), lambda: load_base(Encoder(folder=str(folder)))):
        with pytest.raises(ConfigError) as caught:
            ask()
        (fault,) = caught.value.faults
        assert "the tokenizer has 404 pieces, numbered up to 403, but the embedding has 400 rows" in fault
        assert "none for '[URL]' (400), '[USER]' (401), '[E0]' (402) and 1 more" in fault
        assert "model.resize_token_embeddings(404)" in fault


def test_a_tokenizer_from_elsewhere_is_told(folder: Path) -> None:
    small = {piece: i for i, piece in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "the", "film"])}
    resaved(folder, lambda _: BertTokenizer(vocab=small))
    first, second, third = notices(folder)
    assert first == "the tokenizer has 9 pieces for 400 rows of the embedding: is it this encoder's?"
    assert second == "config.json and the tokenizer number special tokens differently: pad 0 and 1; is it this encoder's?"
    assert "of the pieces of 100 training texts are unknown to the tokenizer, most often " in third


def test_a_larger_tokenizer_from_elsewhere_and_wrong_shapes_are_refused_together(folder: Path) -> None:
    resaved(folder, lambda tokenizer: tokenizer.add_tokens(["[URL]"]) and None)
    config(folder, intermediate_size=48)
    with pytest.raises(ConfigError) as caught:
        notices(folder)
    shapes, rows = caught.value.faults
    assert "by config.json (intermediate_size 48" in shapes
    assert "400 rows" in rows


def test_without_a_mask_token_there_is_no_further_pre_training(folder: Path) -> None:
    pieces = {piece: i for i, piece in enumerate(AutoTokenizer.from_pretrained(folder).get_vocab())}

    def maskless(_: Any) -> Any:
        tokenizer = BertTokenizer(vocab=pieces)
        tokenizer.mask_token = None
        return tokenizer

    resaved(folder, maskless)
    assert AutoTokenizer.from_pretrained(folder).mask_token_id is None
    assert not any("mask" in notice for notice in notices(folder, masks=False))
    with pytest.raises(ConfigError, match="no mask token, which further pre-training needs"):
        notices(folder)


def test_texts_without_special_tokens_are_told(folder: Path) -> None:
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text()) | {"post_processor": None}
    path.write_text(json.dumps(plain))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}))
    assert any("puts no special tokens round a text: pooling pooled and cls" in notice for notice in notices(folder, masks=False))


@pytest.mark.parametrize("damage", [b"{", b'{"model": 3}'])
def test_a_damaged_tokenizer_is_refused(folder: Path, damage: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(damage)
    (folder / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"the tokenizer in .* cannot be read"):
        notices(folder)


def test_a_tokenizer_that_fails_at_a_text_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["unk_token"] = "[NONE]"
    path.write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    for ask in (lambda: notices(folder, texts=[]), lambda: load_base(Encoder(folder=str(folder)))):
        with pytest.raises(ConfigError, match=r"^encoder.folder: .*: the tokenizer cannot be used: WordPiece error: Missing"):
            ask()


def words(*, upper: bool) -> dict[str, int]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    stems = [f"{first}{second}{third}" for first in "bcdfgh" for second in "aeiou" for third in "lmnr"]
    pieces = [
        *special,
        *"abcdefghijklmnopqrstuvwxyz",
        *(stem.capitalize() if upper and i % 2 else stem for i, stem in enumerate(stems)),
    ]
    pieces += [f"[unused{i}]" for i in range(400 - len(pieces))]
    return {piece: i for i, piece in enumerate(pieces)}


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_a_vocabulary_of_the_other_case_is_told(folder: Path, upper: bool, lower: bool) -> None:
    resaved(folder, lambda _: BertTokenizer(vocab=words(upper=upper), do_lower_case=lower))
    found = notices(folder, texts=[])
    if upper == lower:
        (notice,) = found
        expected = "the tokenizer makes texts lower-case, but 1" if lower else "keeps capitals, but none of its pieces has any"
        assert expected in notice
    else:
        assert found == []


def test_unknown_pieces_are_told_with_the_commonest(folder: Path) -> None:
    russian = ["кино и немцы", "это кино", "кино"] * 300
    (notice,) = notices(folder, russian)
    assert notice.startswith("100% of the pieces of 500 training texts are unknown to the tokenizer, most often 'кино', ")
    assert notices(folder, [*TEXTS, "кино"]) == []
    assert notices(checkpoint("roberta"), russian) == []  # bytes are never unknown


def test_the_tokenizer_of_an_encoder_from_scratch_is_asked_too(folder: Path) -> None:
    scratch = Encoder(config=TINY_BERT, tokenizer=str(folder))
    (notice,) = check_encoder(scratch, ["кино"])
    assert notice.startswith(f"encoder.tokenizer: {str(folder)!r}: 100% of the pieces of 1 training texts are unknown")
    small = Encoder(config=TINY_BERT | {"vocab_size": 399}, tokenizer=str(folder))
    with pytest.raises(ConfigError, match=r"encoder.tokenizer: .* numbered up to 399, but the embedding has 399 rows"):
        check_encoder(small)
    assert check_encoder(Encoder(config=TINY_BERT, vocabulary=400), ["кино"]) == []
