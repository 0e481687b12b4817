"""`study encoders`: the table at once, one encoder tried out, what is wrong told."""

from __future__ import annotations

import json
import logging
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

import pytest

from study.survey import encoders
from study.survey.encoders import TABLE
from tests.study.tiny import inside
from tests.test_repository import loaded_after
from tests.trainables.families import checkpoint
from trainables.encoder.load import load_base


def test_the_table_comes_at_once() -> None:
    assert loaded_after("from study.cli import main\ntry: main(['encoders'])\nexcept SystemExit: pass") == []


def test_the_table_fits_and_says_why_some_are_padded(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = inside(capsys, "encoders")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line and line.split()[0] in TABLE}
    assert rows["bert"] == ["packed", "yes", "yes", "yes", "each", "512"]
    assert rows["albert"][4] == "one"
    assert rows["xlnet"] == ["padded", "no", "no", "yes", "each", "~512"]
    assert text.count("padded: ") == 1 + sum(family.padded is not None for family in TABLE.values())
    assert [each["family"] for each in json.loads(inside(capsys, "encoders", "--json")[1])] == list(TABLE)


@pytest.mark.parametrize("kind", ["albert", "xlnet", "deberta-v2"])
def test_one_encoder_is_tried_out(kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_base.cache_clear()
    warnings = QueueHandler(SimpleQueue())
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [warnings])
    code, text, _ = inside(capsys, "encoders", str(checkpoint(kind)))
    assert code == 0
    assert warnings.queue.empty(), "transformers' own warnings are no answer"
    expected = {
        "albert": [
            "notice: no pooler in the checkpoint; a new dense",
            "batches       packed",
            "NSP           yes",
            "layers        3 that share one block",
            "longest text  200 pieces",
        ],
        "xlnet": [
            "batches       padded",
            "MLM           no",
            "longest text  no limit of its own",
            "notice: xlnet takes padded batches",
        ],
        "deberta-v2": ["batches       padded"],
    }
    assert all(line in text for line in expected[kind]), text
    data = json.loads(inside(capsys, "encoders", str(checkpoint(kind)), "--json")[1])
    assert (data["family"], data["packed"]) == (kind, kind == "albert")


def test_an_encoder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, error = inside(capsys, "encoders", str(tmp_path / "nowhere"))
    assert (code, text) == (2, "")
    assert "nowhere" in error


def test_the_document_has_every_family() -> None:
    assert all(f"| `{name}` |" in encoders.document() for name in TABLE)
