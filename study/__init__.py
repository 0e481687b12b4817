"""Many trials on Ray: study files, the search, the launcher, the command line, the Python API. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.api import Best, ConfigError, NoResult, Run, RunInUse, RunStopped, Study

__all__ = ["Best", "ConfigError", "NoResult", "Run", "RunInUse", "RunStopped", "Study"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use: `import study` alone loads nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from study import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
