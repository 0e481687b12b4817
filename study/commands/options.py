"""Options and arguments that several commands have. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

STUDY = click.argument("study_file", metavar="STUDY.yaml", type=click.Path(path_type=Path))
RUN = click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
SET = click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a field of the file; repeatable.")
TEXT = click.option(
    "--text", metavar="COLUMN", multiple=True, default=("text",), show_default=True, help="Column of a FILE with text; repeatable."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
ADDRESS = click.option("--address", metavar="ADDRESS", help="Join the Ray cluster there instead of starting one here.")
STORE = click.option("--store", metavar="URL", help="Store of artifacts: a folder or any fsspec URL. Default: the user's cache.")
SCALE = click.option(
    "--scale",
    type=click.Choice(["paper", "small", "smoke"]),
    help="Size of an ablation: as published; hours on a GPU or a night on a laptop; minutes on 2 cores."
    " Default: small, or paper where there is no small.",
)
TASKS = click.option("--tasks", "only", metavar="NAME,...", help="Some of an ablation's tasks.")
SEEDS = click.option("--seeds", metavar="N", type=click.IntRange(min=1), help="Seeds of every cell of an ablation.")
OTHER_ENCODER = click.option("--encoder", metavar="FOLDER|HUB", help="Another encoder for an ablation; the rows' own stay.")
_DIALECT = (
    click.option("--delimiter", metavar="CHARACTER", help="What divides the columns of csv and tsv FILEs. Default: comma or tab."),
    click.option(
        "--quoting",
        type=click.Choice(["double", "backslash", "none"]),
        help="How quotes inside of quoted texts of csv and tsv FILEs are written; none: quotes enclose nothing.",
    ),
    click.option("--encoding", metavar="NAME", help="Encoding of FILEs that are not in UTF-8, such as cp1252."),
)


def DIALECT(command: Callable[..., Any]) -> Callable[..., Any]:
    """Three options: how csv and tsv files are written."""
    for option in reversed(_DIALECT):
        command = option(command)
    return command


ACCEPT = click.option(
    "--accept-changed-inputs",
    is_flag=True,
    help="Where data or encoder are not those of earlier sessions: start again what was computed from them.",
)
RETRY = click.option("--retry-failed", is_flag=True, help="Begin trials that failed again, with their numbers and settings.")
