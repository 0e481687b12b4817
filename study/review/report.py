"""Write the report of runs again; what cannot be read or written is a ConfigError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.settings.errors import ConfigError

if TYPE_CHECKING:
    from analysis.pages.reports import Written


def write(run_dirs: Sequence[Path], out: Path | None = None, formats: str | None = None) -> Written:
    """Write the report of a run, or one over several, in these formats, separated by commas; None: all except pdf.

    Raises ConfigError for an unknown format, for runs that cannot be read, for a folder that cannot be written, and for a PDF
    without a browser, after all other files are written.
    """
    from analysis.pages import reports
    from analysis.pages.pdf import NoBrowser

    try:
        return reports.write(run_dirs, out, reports.formats(formats))
    except (FileNotFoundError, ValueError, NoBrowser) as error:
        raise ConfigError(str(error).split("\n")) from None
    except OSError as error:
        where = out or (run_dirs[0] / "report" if len(run_dirs) == 1 else reports.OUT)
        raise ConfigError([f"--out {where}: {error.strerror or error}; give a folder that can be written"]) from None
