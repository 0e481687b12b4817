"""Files are written whole, from a text or from its parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.text.write_whole import write_whole


@pytest.mark.parametrize("text", ["one\r\ntwo ü\n", ["one\r\n", "two ü\n"]], ids=["text", "parts"])
def test_a_text_and_its_parts_are_the_same_file(tmp_path: Path, text: str | list[str]) -> None:
    path = tmp_path / "new" / "report.html"
    for _ in range(2):
        write_whole(path, text)
        assert path.read_bytes() == "one\r\ntwo ü\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def parts() -> Iterator[str]:
        yield "new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, parts())
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html", f"report.html.{os.getpid()}.new"]
