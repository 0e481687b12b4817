"""Runs looked at: `study status`, `report`, `compare`, `marks` and `trace`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from study.commands.options import JSON, RUN, STORE
from study.definition.exit_codes import DONE, EPILOG, NO_RESULT


@click.command(epilog=EPILOG)
@RUN
def status(run_dir: Path) -> int:
    """Show how far a study is, running or not, from any terminal: by its records; and whether small local inputs have changed."""
    from study.review import status as states

    click.echo(states.show(run_dir))
    return DONE


@click.command(epilog=EPILOG)
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "formats", metavar="NAMES", help="By comma: html, md, tex, csv, json, pdf. Default: all but the PDF.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Default: RUN/report; of several runs ./report.")
def report(run_dirs: tuple[Path, ...], formats: str | None, out: Path | None) -> int:
    """Remake tables, figures and the page of runs from their records: of studies, and of ablations with verdicts on their claims.

    Of several runs it is one report: what each asked and found, all cells in one table, and in a folder of its name the report of
    each. A PDF needs Chromium or Chrome.
    """
    from analysis.pages import reports
    from analysis.pages.pdf import NoBrowser
    from trainables.settings.errors import ConfigError

    try:
        made = reports.write(run_dirs, out, reports.formats(formats))
    except (FileNotFoundError, ValueError, NoBrowser) as error:
        raise ConfigError(str(error).split("\n")) from None
    except OSError as error:
        where = out or (run_dirs[0] / "report" if len(run_dirs) == 1 else reports.OUT)
        raise ConfigError([f"--out {where}: {error.strerror or error}; give a folder that can be written"]) from None
    for each in made.lost:
        click.echo(each, err=True)
    click.echo(f"report: {made.page}")
    return DONE


@click.command(epilog=EPILOG)
@click.argument("one", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN_B", type=click.Path(path_type=Path))
@JSON
def compare(one: Path, other: Path, as_json: bool) -> int:
    """Compare the finals of two runs, studies or ablations, by task and setting: paired over the test texts, a verdict for each."""
    from analysis.results import compare as comparisons
    from trainables.settings.errors import ConfigError

    try:
        click.echo(comparisons.as_json(one, other) if as_json else comparisons.text(one, other), nl=False)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    return DONE


@click.command(epilog=EPILOG)
@RUN
@click.option("--out", metavar="FILE.html", type=click.Path(path_type=Path), help="Write a page instead.")
@click.option("--texts", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Most texts of each set.")
@STORE
def marks(run_dir: Path, out: Path | None, texts: int, store: str | None) -> int:
    """Show which words a run with selective masking marked: in the task's texts, with scores, and in its corpora.

    In colour on a terminal, else as plain text.
    """
    from study.review import marks as words

    found = words.load(run_dir, store, texts)
    if out:
        words.write(found, words.name_of(run_dir), out)
        click.echo(f"marks: {out}")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(words.coloured(found))
    else:
        click.echo(words.plain(found))
    return DONE


@click.command(epilog=EPILOG)
@RUN
@click.argument("cell", metavar="CELL")
@click.option("--task", metavar="NAME", help="Which task, where the cell is there for several.")
@click.option("--seed", metavar="N", type=int, help="Which seed. Default: the first that has a number.")
@STORE
def trace(run_dir: Path, cell: str, task: str | None, seed: int | None, store: str | None) -> int:
    """Compute one number again, and say whether it came out again.

    CELL is a setting's label as tables show it, `row` or `row | column`, or the name of a final. Its fine-tuning and test are run
    anew in a store of their own; further pre-training comes from the store. Exit code 1 where the number is another one.
    """
    from study.review import trace as traces

    found = traces.trace(run_dir, cell, task, seed, store)
    click.echo(str(found))
    return DONE if found.again else NO_RESULT
