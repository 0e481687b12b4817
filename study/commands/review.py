"""Commands on runs: `study status`, `report`, `export`, `compare`, `marks` and `trace`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from study.commands.options import JSON, RUN, STORE, json_text
from study.definition.exit_codes import DONE, EPILOG, NO_RESULT


@click.command(epilog=EPILOG)
@RUN
@JSON
def status(run_dir: Path, as_json: bool) -> int:
    """Show the progress of a study from its records, also while it runs, and whether small local inputs have changed."""
    from study.review import status as states

    click.echo(json_text(states.look(run_dir)) if as_json else states.show(run_dir))
    return DONE


@click.command(epilog=EPILOG)
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "formats", metavar="NAMES", help="From html, md, tex, csv, json, pdf. Default: all except pdf.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Default: RUN/report; for several runs ./report.",
)
def report(run_dirs: tuple[Path, ...], formats: str | None, out: Path | None) -> int:
    """Write tables, figures and the page of runs again from their records; for ablations with verdicts on their claims.

    Several runs get one report with the question and the result of every run and all cells in one table, and a folder with the
    report of every run. A PDF needs Chromium or Chrome.
    """
    from study.review import report as writing

    report = writing.write(run_dirs, out, formats)
    for line in report.lost:
        click.echo(line, err=True)
    click.echo(f"report: {report.page}")
    return DONE


@click.command(epilog=EPILOG)
@click.argument("one", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN_B", type=click.Path(path_type=Path))
@JSON
def compare(one: Path, other: Path, as_json: bool) -> int:
    """Compare the finals of two studies or ablations, with a verdict by task and setting, paired over the test texts."""
    from analysis.results import compare as comparisons
    from trainables.settings.errors import ConfigError

    try:
        click.echo(comparisons.as_json(one, other) if as_json else comparisons.text(one, other), nl=False)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    return DONE


@click.command(epilog=EPILOG)
@RUN
@click.option("--out", metavar="FILE.html", type=click.Path(path_type=Path), help="Write an HTML page instead.")
@click.option("--texts", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Most texts per set.")
@STORE
def marks(run_dir: Path, out: Path | None, texts: int, store: str | None) -> int:
    """Show the words that a run with selective masking marked, in the task's texts with scores, and in its corpora.

    In colour on a terminal, else as plain text.
    """
    from study.review import marks as words

    groups = words.load(run_dir, store, texts)
    if out:
        words.write(groups, words.name_of(run_dir), out)
        click.echo(f"marks: {out}")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(words.coloured(groups))
    else:
        click.echo(words.plain(groups))
    return DONE


@click.command(epilog=EPILOG)
@RUN
@click.argument("cell", metavar="CELL")
@click.option("--task", metavar="NAME", help="The task, if several tasks have the cell.")
@click.option("--seed", metavar="N", type=int, help="The seed. Default: the first seed with a number.")
@STORE
def trace(run_dir: Path, cell: str, task: str | None, seed: int | None, store: str | None) -> int:
    """Compute one number again and check that it is the same.

    CELL is the label of a setting in the tables, `row` or `row | column`, or the name of a final. Its fine-tuning and test are run
    again in a temporary store; further pre-training is loaded from the store. Exit code 1 if the number differs.
    """
    from study.review import trace as traces

    traced = traces.trace(run_dir, cell, task, seed, store)
    click.echo(str(traced))
    return DONE if traced.again else NO_RESULT


@click.command(epilog=EPILOG)
@RUN
@click.option(
    "--trial", metavar="NAME", help="A final, such as f00, or the label of a setting; of an ablation the label of a cell."
)
@click.option("--task", metavar="NAME", help="The task, if several tasks of an ablation have the cell.")
@click.option("--seed", metavar="N", type=int, help="The seed. Default: the one that is best on validation.")
@click.option("--to", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Default: RUN/model.")
@click.option("--force", is_flag=True, help="Replace a model that an earlier export wrote there.")
@click.option("--again", is_flag=True, help="Train it once more if the store no longer has its weights.")
@click.option("--format", "also", type=click.Choice(["onnx"]), help="Also write model.onnx, for runtimes without PyTorch.")
@click.option("--push", metavar="OWNER/NAME", help="Also publish it in this repository of the Hugging Face hub.")
@click.option("--private/--public", default=None, help="Who can read that repository. Default: private.")
@STORE
def export(
    run_dir: Path,
    trial: str | None,
    task: str | None,
    seed: int | None,
    folder: Path | None,
    force: bool,
    again: bool,
    also: str | None,
    push: str | None,
    private: bool | None,
    store: str | None,
) -> int:
    """Write the model that a study found as a folder: weights, tokenizer, configuration, model card.

    By default the chosen setting with the seed that is best on validation. transformers loads the folder if it has a head that
    computes the same, else its encoder; trainables.load loads every one. Exit code 1 if it was written, and --push has failed.
    """
    from study.review import export as exports
    from study.review import hub

    if private is not None and push is None:
        raise click.UsageError("--private and --public say who can read what --push publishes; give --push OWNER/NAME")
    public = private is False
    onnx = also == "onnx"
    done = exports.export(
        run_dir, trial, folder, store, task=task, seed=seed, force=force, again=again, onnx=onnx, push=push, public=public
    )
    click.echo(str(done))
    if done.repository is not None:
        try:
            url = hub.publish(done.folder, done.repository)
        except hub.NotPublished as error:
            click.echo(f"{error}. The model is whole in {done.folder}: the same command with --force tries again", err=True)
            return NO_RESULT
        click.echo(f"published, {done.repository.visibility}: {url}")
    return DONE
