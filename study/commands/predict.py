"""`study predict`: predict the rows of a file with an exported model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.text.terminal import as_data, reader_has_gone
from study.commands.options import DIALECT, STORE, TEXT
from study.definition.exit_codes import DONE, EPILOG

if TYPE_CHECKING:
    from trainables.export.load import LoadedModel
    from trainables.prediction.predict_file import Progress


@click.command(epilog=EPILOG)
@click.argument("model", metavar="DIR|RUN", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE|-")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Default: standard output.")
@TEXT
@click.option("--text-pair", metavar="COLUMN", multiple=True, help="Column with the second text of pairs; repeatable.")
@click.option("--raw", is_flag=True, help="Probabilities as the model gives them, without the temperature that calibrates them.")
@STORE
@DIALECT
def predict(
    model: Path,
    file: str,
    out: Path | None,
    text: tuple[str, ...],
    text_pair: tuple[str, ...],
    raw: bool,
    store: str | None,
    **dialect: str | None,
) -> int:
    """Predict the rows of a file with a model that `study export` wrote; the rows are written again with columns added.

    DIR is the folder of the model; for a run, its model is taken from the store, as `study export RUN` does.

    FILE is csv, tsv, jsonl or parquet, or plain text with one text a line, whose predictions are JSON lines; -: standard input,
    JSON lines or plain text. The columns predicted_label and probability_LABEL of each label are added, all others are kept. With
    several labels per text, the tuned thresholds decide, and in csv and tsv the predicted labels are a JSON list.
    """
    from trainables.prediction import predict_file as files
    from trainables.prediction.lines import Columns
    from trainables.scores import temperature
    from trainables.settings.dialect import Dialect, options_said
    from trainables.settings.errors import ConfigError

    try:
        kind = Dialect.of(**dialect)
        with _loaded(model, store) as loaded:
            source = files.checked(loaded, file, out, Columns(text, text_pair), kind, sys.stdin.buffer)
            doubt = None if raw else temperature.doubt(loaded.temperature)
            for notice in [*source.notices, *filter(None, [doubt])]:
                click.echo(options_said(notice), err=True)
            with _progress() as shown, as_data(sys.stdout) as stdout:

                def progress(rows: int, total: int | None) -> None:
                    if reader_has_gone(stdout):  # as `| head` when it has ended: nobody would see the rest
                        raise click.exceptions.Exit(DONE)
                    shown(rows, total)

                done = files.predict_file(loaded, source, out, stdout, raw=raw, progress=progress)
    except ConfigError as error:
        raise ConfigError(map(options_said, error.faults)) from None
    for notice in done.notices:
        click.echo(notice, err=True)
    if out is not None:
        click.echo(f"{out}: {done.rows} rows", err=True)
    return DONE


@contextmanager
def _loaded(folder: Path, store: str | None) -> Iterator[LoadedModel]:
    """The model in a folder, or of a run."""
    if (folder / "records.jsonl").exists() or (folder / "ablation.yaml").exists():
        from study.review.export import chosen_model

        with chosen_model(folder, store) as (model, remarks):
            for remark in remarks:
                click.echo(remark, err=True)
            yield model
        return
    from trainables.export.load import load

    yield load(folder)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda rows, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None, rate="")

        def told(rows: int, total: int | None) -> None:
            bar.update(task, completed=rows, total=total)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f} a second" if speed else "")

        yield told
