"""`study init`, and what `study run --data` does before the run: from a data file to a study file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.commands.options import OWN_DATA, SET, STORE
from study.definition.exit_codes import DONE, EPILOG

if TYPE_CHECKING:
    from study.own_data.given import Given
    from trainables.stages.inputs import Reader


@click.command(epilog=EPILOG)
@OWN_DATA
@SET
@STORE
@click.option("--out", metavar="STUDY.yaml", type=click.Path(path_type=Path), help="The study file to write. Default: NAME.yaml.")
def init(overrides: tuple[str, ...], store: str | None, out: Path | None, **own: Any) -> int:
    """Look at your data, propose a study for it and for this machine, and write it as a commented STUDY.yaml.

    Columns are guessed only where there is no doubt; else all columns are shown, with the command to type. Nothing is trained.
    """
    from study.own_data import begin, given
    from trainables.settings.errors import ConfigError

    options = given_by(own)
    path = out or Path(f"{given.study_name(options)}.yaml")
    if path.exists():
        raise ConfigError([f"{path}: exists; give another file with --out, or run it: study run {shlex.quote(str(path))}"])
    begin.begin(options, overrides, path, store, click.echo, "study init")
    click.echo(f"\nwritten: {path}\nnext: study run {shlex.quote(str(path))}")
    return DONE


def study_file_for(own: dict[str, Any], overrides: tuple[str, ...], store: str | None) -> tuple[Path, Reader | None]:
    """(the study file for these options, what has read its data): an earlier file of the same options, else a new one.

    Raises ConfigError for faults of the data, and for a file of that name that was written from other options.
    """
    from study.own_data import begin, given

    options = given_by(own)
    path = Path(f"{given.study_name(options)}.yaml")
    reader = begin.begin_once(options, overrides, path, store, click.echo, "study run")
    if reader is not None:
        click.echo(f"\nwritten: {path}; it runs now. Ctrl-C saves and stops; the same command resumes.\n")
    return path, reader


def given_by(own: dict[str, Any]) -> Given:
    """The options on own data. Raises UsageError without --data."""
    from study.own_data.given import Given

    names = ("data", "test", "validation", "text", "text_pair", "label", "encoder", "name")
    if not own["data"]:
        raise click.UsageError("give your texts with --data FILE")
    return Given(**{name: own[name] for name in names}, dialect={name: own[name] for name in ("delimiter", "quoting", "encoding")})
