"""Send a run folder to a tracker, once; several processes send it one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stdout
from importlib import import_module
from pathlib import Path

from analysis.results import read_ablation
from analysis.text.places import without_credentials
from analysis.text.plain import plain
from analysis.trackers.ledger import alone
from analysis.trackers.names import TRACKERS, faults
from analysis.trackers.tracked import TrackedStudy, read

PATIENCE_S = 2.0
"""Time to wait for another process that sends the same run."""
SECRETS = ("KEY", "TOKEN", "PASSWORD", "SECRET")
"""Parts of the names of environment variables whose values no message may quote."""


def send(folder: Path, name: str, at: str | None = None) -> int:
    """Send a run to a tracker and return the number of its runs that have changed there.

    Raises ValueError for an unknown tracker, one that is not installed, or an address that cannot be used; Busy if another process
    sends it; FileNotFoundError if there is no run; and whatever the tracker raises.
    """
    if wrong := faults([name]):
        raise ValueError(wrong[0])
    tracked = read(folder)
    # what a tracker's library prints is not the answer of a command
    with alone(folder, name, PATIENCE_S), redirect_stdout(sys.stderr), opened(name, at, folder) as sent:
        return sent(tracked)


def runs_in(folder: Path) -> list[Path]:
    """Return the run folder itself, or those of the studies of an ablation that have records.

    Raises FileNotFoundError if there is none, ValueError if the ablation cannot be read.
    """
    folders = [folder]
    if read_ablation.is_ablation(folder):
        studies = read_ablation.ledger(folder).definition.get("studies")
        folders = [folder / name for study in studies or () if (name := read_ablation.folder_of(study))]
    found = [each for each in folders if (each / "records.jsonl").is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: no run folder (there is no records.jsonl in it)")
    return found


def opened(name: str, at: str | None, folder: Path) -> AbstractContextManager[Callable[[TrackedStudy], int]]:
    """Open a tracker: within the block the function it yields sends a study, as often as needed."""
    opens: Callable[..., AbstractContextManager[Callable[[TrackedStudy], int]]]
    opens = import_module(f"analysis.trackers.{TRACKERS[name].module}").opened
    return opens(at, folder)


def reason(error: BaseException, environment: Mapping[str, str] = os.environ) -> str:
    """Describe a failure in one line, without passwords of addresses and without values of secret environment variables."""
    text = without_credentials(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    for name, value in environment.items():
        if len(value) >= 6 and any(part in name.upper() for part in SECRETS):
            text = text.replace(value, "***")
    return plain(text, 300)
