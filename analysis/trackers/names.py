"""The trackers that a run can be sent to. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import NamedTuple


class Tracker(NamedTuple):
    """A tracker: the module that sends to it, the package that this needs, and what its address is."""

    module: str
    package: str
    address: str


TRACKERS = {
    "mlflow": Tracker("to_mlflow", "mlflow", "tracking URI"),
    "tensorboard": Tracker("to_tensorboard", "tensorboard", "folder"),
    "wandb": Tracker("to_wandb", "wandb", "address of a server"),
    "trackio": Tracker("to_trackio", "trackio", "address of a server, or name of a Space"),
}
"""{name in `track`: tracker}"""


def faults(names: Iterable[str]) -> list[str]:
    """Return a line for every tracker that is unknown or whose package is not installed."""
    return [fault for name in dict.fromkeys(names) if (fault := _fault(name))]


def _fault(name: str) -> str:
    if name not in TRACKERS:
        close = get_close_matches(name, TRACKERS, n=1)
        return f"no tracker is called {name!r}; {f'did you mean {close[0]!r}?' if close else 'there are ' + ', '.join(TRACKERS)}"
    spec = find_spec(TRACKERS[name].package)
    if spec is None or spec.origin is None:  # a folder of this name in the working directory is no package
        return f"{name} is not installed; run: pip install 'finetune-study[{name}]'"
    return ""
