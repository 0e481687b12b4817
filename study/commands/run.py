"""`study run` and `study reproduce`: run a study or an ablation to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.commands import arguments, own_data
from study.commands.exits import Unexpected, cut_short, exit_code
from study.commands.options import ACCEPT, ADDRESS, OTHER_ENCODER, OWN_DATA, RETRY, SCALE, SEEDS, SET, STORE, TASKS
from study.definition.exit_codes import DONE, EPILOG, NO_RESULT

if TYPE_CHECKING:
    from study.ablations.grid import AblationGrid


@click.command(epilog=EPILOG)
@click.argument("study_file", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path))
@OWN_DATA
@SET
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="Run folder. Default: runs/<name of the study>.")
@ADDRESS
@STORE
@ACCEPT
@RETRY
def run(
    study_file: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    address: str | None,
    store: str | None,
    accept_changed_inputs: bool,
    retry_failed: bool,
    **own: Any,
) -> int:
    """Run a study, or resume one that was interrupted or whose budget was raised.

    STUDY.yaml may also be a run folder: its study is resumed. Instead of a file, --data names your own texts: a study is proposed
    and written as by `study init`, and run. Ctrl-C saves and stops; run the same command again to resume.
    """
    reader = None
    if study_file is None:
        study_file, reader = own_data.study_file_for(own, overrides, store)
    elif used := [name for name, value in own.items() if value]:
        raise click.UsageError(f"--{used[0].replace('_', '-')} describes own data; with {study_file} its fields say that")
    from study.definition.study_file import load_study_at, run_dir_for

    study = load_study_at(study_file, overrides)
    from study.run import launch

    run_dir = run_dir_for(study, out, study_file)
    options = {"out": out, "address": address, "store": store}
    again = arguments.command_line("study run", study_file, overrides, options)
    return _to_its_end(
        lambda: launch.run(study, run_dir, store, address, None, accept_changed_inputs, retry_failed, reader), run_dir, again
    )


@click.command(epilog=EPILOG)
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--list", "as_list", is_flag=True, help="List the ablations in the package.")
@SCALE
@TASKS
@SEEDS
@OTHER_ENCODER
@SET
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="Run folder. Default: runs/NAME-SCALE.")
@ADDRESS
@STORE
@ACCEPT
@RETRY
def reproduce(
    name: str | None,
    as_list: bool,
    scale: str | None,
    only: str | None,
    seeds: int | None,
    encoder: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    address: str | None,
    store: str | None,
    accept_changed_inputs: bool,
    retry_failed: bool,
) -> int:
    """Run a published ablation, or one of your own, and show its table beside the published numbers.

    --set takes fields of the ablation (resources.gpus=1, tasks.sogou.train=FILE) and of stages (finetune.epochs=2). Ctrl-C
    saves and stops; run the same command again to resume.
    """
    from study.ablations import reproduce as runs

    if as_list or name is None:
        click.echo(runs.listing())
        return DONE
    grid = arguments.ablation_grid(name, scale, only, seeds, encoder, overrides)
    click.echo("\n".join([f"{grid.ablation.name} at scale {grid.scale}: {grid.ablation.title}", *_changes(grid)]))
    folder = out or Path("runs") / grid.name
    options = {"scale": scale, "tasks": only, "seeds": seeds, "encoder": encoder, "out": out, "address": address, "store": store}
    again = arguments.command_line("study reproduce", name, overrides, options)
    return _to_its_end(
        lambda: runs.run(grid, folder, store, address, click.echo, accept_changed_inputs, retry_failed), folder, again
    )


def _to_its_end(work: Callable[[], Any], folder: Path, again: str) -> int:
    """Run a study or an ablation, print how it ended, and return the exit code. Unexpected errors go to the log of the folder."""
    from study.cluster.machine_faults import StudyStopped
    from study.run import launch

    try:
        outcome = work()
    except (KeyboardInterrupt, StudyStopped) as end:
        return cut_short(end, again)
    except Exception as error:
        if exit_code(error) is None:
            raise Unexpected(launch.log_failure(folder)) from error
        raise
    click.echo(outcome.text)
    return DONE if outcome.has_result else NO_RESULT


def _changes(grid: AblationGrid) -> list[str]:
    """Return the changes of a scale as lines."""
    remark = [f"({grid.says})"] if grid.says else []
    return (
        [*remark, *(f"  {line}" for line in grid.changes)]
        if grid.changes
        else [f"  as {'published' if grid.ablation.source else 'in its file'}"]
    )
