"""What another version of tokenizers returns is noticed, and is part of the ids of the tokenizers that it concerns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from tests.helpers import TINY_BERT, reviews, tiny_recipe
from trainables.batches import tokenizer_library
from trainables.batches.tokenise import pieces
from trainables.batches.tokenizer_library import RECORDED, TRAINED, differing, parts_of, parts_of_folder
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.settings.encoder import Encoder
from trainables.stages.inputs import Inputs

TEXTS = [text for text, _ in reviews(limit=60)]


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tokenizers 0.22.0 returned, where some letters have no lower case yet."""
    others = {"BertNormalizer": "ee0e097ec4a58a5e", "Lowercase": "f6718398156f8489"}
    plain = tokenizer_library._digest
    monkeypatch.setattr(tokenizer_library, "_digest", lambda part: others.get(part) or plain(part))


def test_this_version_returns_what_is_recorded() -> None:
    """Where this fails with a new version, tokenizers with these parts get new ids: its differences are expected here from then on,
    and the changelog marks it **store**."""
    assert differing(RECORDED) == {}


def test_letters_with_another_lower_case_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference between versions 0.22.0 and 0.22.2."""
    lower = normalizers.Lowercase().normalize_str
    assert lower("\ua7ce") == "\ua7cf"

    class Older:
        def normalize_str(self, text: str) -> str:
            return lower(text).replace("\ua7cf", "\ua7ce")

    tokenizer_library._digest.cache_clear()
    monkeypatch.setattr(normalizers, "Lowercase", Older)
    assert differing(["Lowercase", "NFC"]).keys() == {"Lowercase"}
    tokenizer_library._digest.cache_clear()


def test_a_part_that_is_gone_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer_library._digest.cache_clear()
    monkeypatch.delattr(normalizers, "Nmt")
    assert differing(["Nmt"]) == {"Nmt": "absent"}
    tokenizer_library._digest.cache_clear()


def test_parts_are_those_of_the_file(tmp_path: Path) -> None:
    assert parts_of_folder(None) == TRAINED
    assert parts_of_folder(tmp_path) == RECORDED, "any, if there is only a vocabulary"
    train_wordpiece(TEXTS, 300).save_pretrained(tmp_path)
    assert set(parts_of_folder(tmp_path)) == {"BertNormalizer", "BertPreTokenizer", "WordPiece"}
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])  # type: ignore[assignment]
    assert {"NFD", "StripAccents", "WordPiece"} <= set(parts_of(json.loads(backend.to_str())))


@pytest.mark.usefixtures("older")
def test_ids_of_encoders_that_it_concerns_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path)
    train_wordpiece(TEXTS, 300).save_pretrained(tmp_path / "with")
    backend = Tokenizer.from_file(str(tmp_path / "with" / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()  # type: ignore[assignment]
    (tmp_path / "without").mkdir()
    backend.save(str(tmp_path / "without" / "tokenizer.json"))
    folders = [str(tmp_path / name) for name in ("with", "without")]
    encoders = [recipe.encoder, *(Encoder(config=TINY_BERT, tokenizer=folder) for folder in folders)]
    recipes = [recipe.model_copy(update={"encoder": encoder}) for encoder in encoders]
    older = [Inputs(each).encoder_id for each in recipes]
    monkeypatch.undo()
    assert [before == Inputs(each).encoder_id for before, each in zip(older, recipes, strict=True)] == [False, False, True]


@pytest.mark.usefixtures("older")
def test_pieces_of_another_version_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_older = pieces(TEXTS, train_wordpiece(TEXTS, 300), tmp_path, "texts").path
    monkeypatch.undo()
    assert pieces(TEXTS, train_wordpiece(TEXTS, 300), tmp_path, "texts").path != of_older
