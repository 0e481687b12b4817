"""`study plan`: show what a study or ablations would compute and cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.commands import arguments
from study.commands.options import JSON, OTHER_ENCODER, SCALE, SEEDS, SET, STORE, TASKS
from study.definition.exit_codes import DONE, EPILOG

if TYPE_CHECKING:
    from study.definition.models import Study


@click.command(epilog=EPILOG)
@click.argument("names", metavar="STUDY.yaml|ABLATION...", nargs=-1, required=True)
@SET
@STORE
@SCALE
@TASKS
@SEEDS
@OTHER_ENCODER
@click.option("--gpu", metavar="NAME", help="Estimate hours and memory on this GPU instead of this machine, such as H100.")
@JSON
def plan(
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str | None,
    scale: str | None,
    only: str | None,
    seeds: int | None,
    encoder: str | None,
    gpu: str | None,
    as_json: bool,
) -> int:
    """Show the stages, the cached results, and the expected cost of a study or a whole ablation. Computes nothing.

    Several ablations are planned for one store, in which common stages are computed once; the options apply to all of them.
    docs/plans.md explains the estimates, and the keys of --json.
    """
    from study.ablations import ablation_file
    from trainables.store.store import Store

    studies = [name for name in names if Path(name).exists() and not ablation_file.is_ablation(name)]
    if not studies:
        import os

        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # a plan downloads nothing
        from study.ablations import grid_plan_text

        grids = [
            arguments.ablation_grid(name, scale, only, seeds, encoder, overrides, placeholders=True)
            for name in dict.fromkeys(names)
        ]
        artifacts = Store(store or Store.default().url)
        show = grid_plan_text.as_json if as_json else grid_plan_text.show
        click.echo(show(grids[0], artifacts, gpu, *grids[1:]))
        if gpu is None and not as_json:
            _say_unfit(part.study for grid in grids for part in grid.parts)
        return DONE
    if len(names) > 1:
        raise click.UsageError(f"{studies[0]} is a study; several in one plan must all be ablations")
    name = studies[0]
    options = {"--scale": scale, "--tasks": only, "--seeds": seeds, "--encoder": encoder}
    if wrong := [option for option, value in options.items() if value is not None]:
        raise click.UsageError(f"{', '.join(wrong)}: for ablations only, and {name} is a study")
    from study.definition.study_file import load_study_at
    from study.planning import plan_text

    study = load_study_at(Path(name), overrides)

    click.echo(plan_text.show(study, Store(store or study.store or Store.default().url), gpu, as_json))
    if gpu is None and not as_json:
        _say_unfit([study])
    return DONE


def _say_unfit(studies: Iterable[Study]) -> None:
    """Print which resources this machine lacks."""
    from study.planning import plan_text

    for line in plan_text.unfit(studies):
        click.echo(f"\n{line}")
