"""YAML as plain data only."""

from __future__ import annotations

from pathlib import Path

import pytest

import trainables.settings.recipe  # noqa: F401  the models that say which fields hold text
from trainables.settings.errors import ConfigError
from trainables.settings.plain_yaml import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [id]", "is not allowed; a study file is plain data"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("a: [1", "not YAML"),
        ("[" * 5000, "not YAML|nested too deeply"),
        ("a: 2026-13-45", "not YAML"),
        ("budget:\n  trials: 010", "line 2: 010 is not a decimal number"),
        ("hours: 1:30", "line 1: 1:30 is not a decimal number"),
        ("steps: 0x1F", "line 1: 0x1F is not a decimal number"),
    ],
)
def test_refused_yaml(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "study.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        read_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8: byte 0xe9 at offset 9"):
        read_yaml(tmp_path / "latin.yaml")


def test_exponents_are_numbers() -> None:
    assert parse_yaml("[1e-5, 2E+3, -1e2, 1.5e-3]") == [1e-5, 2e3, -1e2, 1.5e-3]
    assert parse_yaml("[e5, 1e, '1e5']") == ["e5", "1e", "1e5"]


PLAIN = ["no", "yes", "on", "0", "1.0", "null", "~", "2020-01-01", "1_000", "0x1f", "1e3", "012", "1:30", "=", ".5", ".inf"]
"""What YAML 1.1 takes for something else than text."""


@pytest.mark.parametrize("form", ["[{}]", "['{}']", '["{}"]'])
def test_text_is_taken_as_it_is_written(form: str) -> None:
    for written in PLAIN:
        text = form.format(written)
        assert parse_yaml(f"tasks: {{t: {{labels: {text}, text: {text}}}}}") == {
            "tasks": {"t": {"labels": [written], "text": [written]}}
        }
        assert parse_yaml(text, "--set", "tasks.t.labels") == [written]


def test_fields_that_hold_text_and_others() -> None:
    found = parse_yaml("tasks: {no: {label: 1, text: off, text_pair: null, domain: ~, multi_label: yes, split_seed: 12}, 1: known}")
    mine = {"label": "1", "text": "off", "text_pair": None, "domain": None, "multi_label": True, "split_seed": 12}
    assert found == {"tasks": {"no": mine, "1": "known"}}
    space = parse_yaml(
        "{pretrain.language: {choice: [no, en]}, pretrain.whole_word: {choice: [no, yes], when: {pretrain.language: no}}}"
    )
    assert space == {
        "pretrain.language": {"choice": ["no", "en"]},
        "pretrain.whole_word": {"choice": [False, True], "when": {"pretrain.language": "no"}},
    }
    assert parse_yaml("no", "--set", "tasks.t.labels.0") == "no"
    assert parse_yaml("3", "--set", "tasks.labels.split_seed") == 3


def test_names_of_fields_are_text() -> None:
    with pytest.raises(ConfigError, match="line 1: '1' is given twice"):
        parse_yaml("{1: a, '1': b}")
    with pytest.raises(ConfigError, match="line 2: the name of a field is a list or mapping"):
        parse_yaml("a: 1\n? [b]\n: 2")
