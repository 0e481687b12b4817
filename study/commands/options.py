"""Options and arguments that several commands share. Imports no heavy package."""

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
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
ADDRESS = click.option("--address", metavar="ADDRESS", help="Join the Ray cluster at this address instead of starting Ray here.")
STORE = click.option("--store", metavar="URL", help="Store of artifacts: a folder or any fsspec URL. Default: the user's cache.")
SCALE = click.option(
    "--scale",
    type=click.Choice(["paper", "small", "smoke"]),
    help="Size of an ablation: as published; hours on a GPU or a night on a laptop; minutes on 2 cores."
    " Default: small, or paper if the ablation has no small scale.",
)
TASKS = click.option("--tasks", "only", metavar="NAME,...", help="Run only these tasks of an ablation.")
SEEDS = click.option("--seeds", metavar="N", type=click.IntRange(min=1), help="Number of seeds of every cell of an ablation.")
OTHER_ENCODER = click.option(
    "--encoder", metavar="FOLDER|HUB", help="Another encoder for an ablation; rows with their own keep it."
)
_DIALECT = (
    click.option("--delimiter", metavar="CHARACTER", help="Separator of the columns of csv and tsv FILEs. Default: comma or tab."),
    click.option(
        "--quoting",
        type=click.Choice(["double", "backslash", "none"]),
        help="How csv and tsv FILEs write a quote within a quoted text; none: quotes have no meaning.",
    ),
    click.option("--encoding", metavar="NAME", help="Encoding of FILEs that are not in UTF-8, such as cp1252."),
)


def DIALECT(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the three options on the format of csv and tsv files."""
    for option in reversed(_DIALECT):
        command = option(command)
    return command


def json_text(data: object) -> str:
    """Format data as JSON."""
    import json

    return json.dumps(data, indent=2, ensure_ascii=False)


ACCEPT = click.option(
    "--accept-changed-inputs",
    is_flag=True,
    help="If data or encoder have changed since earlier sessions: compute the results from them again.",
)
RETRY = click.option("--retry-failed", is_flag=True, help="Run failed trials again, with their numbers and settings.")
