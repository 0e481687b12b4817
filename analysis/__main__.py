"""Write reports from records, without torch and ray.

`python -m analysis RUN ...` writes tables, figures and the page of a study or an ablation; for several runs one common report.
`python -m analysis compare A B` compares two runs.
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

    Returns 0, 2 for wrong input, 4 if the output cannot be written.
    """
    open_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _exit_code(words))


def _exit_code(words: Sequence[str]) -> int:
    try:
        return _compare(words[1:]) if words[:1] == ["compare"] else _report(words)
    except Unwritten:
        raise
    except (OSError, ValueError, NoBrowser) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Write tables, figures and the page of a run again.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder of a study or an ablation; or `compare A B`")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes; default: RUN/report, for several runs ./report"
    )
    parser.add_argument("--format", metavar="NAMES", help=f"formats, separated by commas: {', '.join(output.ALL_FORMATS)}")
    options = parser.parse_args(words)
    written = reports.write(options.runs, options.out, reports.formats(options.format))
    print(f"{written.text}\nreport: {written.page}")
    return 0


def _compare(words: Sequence[str]) -> int:
    from analysis.results import compare

    parser = argparse.ArgumentParser(prog="python -m analysis compare", description="Compare the finals of two runs, by task.")
    parser.add_argument("one", type=Path, metavar="A", help="run folder of a study or an ablation")
    parser.add_argument("other", type=Path, metavar="B", help="another run folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(words)
    form = compare.as_json if options.json else compare.text
    print(form(options.one, options.other), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
