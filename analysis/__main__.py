"""`python -m analysis RUN [--out DIR]`: tables, figures and the page of a run from its records. Needs neither torch nor ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import report, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print the result. Returns 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Remake tables, figures and the page of a run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, which holds records.jsonl")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes; default: RUN/report")
    given = parser.parse_args(arguments)
    try:
        page = report.write(given.run, given.out)
        text = tables.result_text(given.run)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text}\nreport: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
