"""Reports from records, without torch and ray.

`python -m analysis RUN ...`: tables, figures and the page of a study or of an ablation, of several one over all of them.
`python -m analysis compare A B`: two runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.pages import output, reports
from analysis.pages.pdf import NoBrowser
from analysis.text.terminal import Unwritten, guarded, open_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print the result, or compare two runs.

    Returns 0, 2 for wrong input, 4 where what it prints cannot be written.
    """
    open_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _answered(words))


def _answered(words: Sequence[str]) -> int:
    try:
        return _compare(words[1:]) if words[:1] == ["compare"] else _report(words)
    except Unwritten:
        raise
    except (OSError, ValueError, NoBrowser) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Remake tables, figures and the page of a run.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder of a study or an ablation; or `compare A B`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes; default: RUN/report, of several ./report")
    parser.add_argument("--format", metavar="NAMES", help=f"which forms, by comma: {', '.join(output.ALL_FORMATS)}")
    given = parser.parse_args(words)
    made = reports.write(given.runs, given.out, reports.formats(given.format))
    print(f"{made.text}\nreport: {made.page}")
    return 0


def _compare(words: Sequence[str]) -> int:
    from analysis.results import compare

    parser = argparse.ArgumentParser(prog="python -m analysis compare", description="Compare the finals of two runs, by task.")
    parser.add_argument("one", type=Path, metavar="A", help="run folder of a study or an ablation")
    parser.add_argument("other", type=Path, metavar="B", help="another one")
    parser.add_argument("--json", action="store_true", help="plain data instead of a table")
    given = parser.parse_args(words)
    print(compare.as_json(given.one, given.other) if given.json else compare.text(given.one, given.other), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
