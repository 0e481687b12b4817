"""YAML as plain data only."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.faults import ConfigError, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [id]", "is not allowed; a study file is plain data"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("a: [1", "not YAML"),
        ("[" * 5000, "not YAML|nested too deeply"),
        ("a: 2026-13-45", "not YAML"),
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
