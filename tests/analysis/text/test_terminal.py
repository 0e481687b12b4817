"""Unknown characters, closed streams and broken pipes do not change how a command ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.text import terminal
from study.commands.exits import STOPPED
from tests.analysis.made_records import make

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("runs") / "Größe–±", trials=4)
    subprocess.run([sys.executable, "-m", "analysis", made], cwd=ROOT, check=True, capture_output=True)
    return made


def shell(command: str, *words: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", command, "-", sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        ("study status RUN", "latin-1"),
        ("study report RUN", "cp1252"),
        ("analysis RUN", "ascii"),
        ("analysis compare RUN RUN", "latin-1"),
        ("study encoders", "cp437:strict"),
        ("study tasks", "utf-16"),
    ],
)
def test_a_terminal_without_our_signs(run: Path, command: str, encoding: str) -> None:
    words = [str(run) if word == "RUN" else word for word in command.split()]
    done = shell('"$1" -m "${@:2}"', *words, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip()


@pytest.mark.parametrize("command", ["study status RUN", "analysis compare RUN RUN"])
@pytest.mark.parametrize("how", ["| true", ">&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/null"])
def test_streams_that_are_closed_or_full(run: Path, command: str, how: str) -> None:
    words = [str(run) if word == "RUN" else word for word in command.split()]
    done = shell(f'set -o pipefail; "$1" -m "${{@:2}}" {how}', *words)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert (done.returncode == 0) == ("full" not in how), (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("command", "how", "said"),
    [
        ("study status RUN", ">/dev/full", b"output: No space left on device\n"),
        ("analysis compare RUN RUN --json", ">/dev/full", b"output: No space left on device\n"),
        ("study --help", ">/dev/full 2>/dev/full", b""),
        ("study statu", "2>/dev/full", b""),
    ],
)
def test_output_that_cannot_be_written_is_one_line(run: Path, command: str, how: str, said: bytes) -> None:
    words = [str(run) if word == "RUN" else word for word in command.split()]
    done = shell(f'"$1" -m "${{@:2}}" {how}', *words)
    assert (done.returncode, done.stderr) == (STOPPED, said)


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("10.00 ± 1.00 – 95 % ≥ …", "ascii", b"10.00 +- 1.00 - 95 % >= ..."),
        ("10.00 ± 1.00 – ü", "latin-1", b"10.00 \xb1 1.00 - \xfc"),
        ("Größe 文 \udcff", "ascii", b"Groesse ? ?"),
        ("– \udcff", "utf-8", "– ?".encode()),
    ],
)
def test_characters_that_the_encoding_lacks_are_replaced(text: str, encoding: str, shown: bytes) -> None:
    assert text.encode(encoding, terminal.STAND_IN) == shown


def test_a_stream_outlives_its_reader() -> None:
    reading, writing = os.pipe()
    with terminal.stream(writing) as out:
        print("seen", file=out)
        assert os.read(reading, 10) == b"seen\n"
        os.close(reading)
        for _ in range(3):
            print("not seen", file=out)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)
