"""Files are written whole, from a text or from its parts."""

from __future__ import annotations

import resource
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
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_the_disk_cannot_take_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands for a full disk: the write fails in the middle."""
    path = tmp_path / "report.html"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, "x" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
