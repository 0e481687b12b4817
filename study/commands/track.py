"""`study track`: send a run to an experiment tracker."""

from __future__ import annotations

from pathlib import Path

import click

from study.commands.options import RUN
from study.definition.exit_codes import DONE, EPILOG, NO_RESULT


@click.command(epilog=EPILOG)
@RUN
@click.option("--to", "trackers", metavar="NAME", multiple=True, help="mlflow, tensorboard, wandb or trackio. Default: `track`.")
@click.option("--at", metavar="URI", help="MLflow: tracking URI. TensorBoard: folder. W&B, Trackio: address of a server.")
def track(run_dir: Path, trackers: tuple[str, ...], at: str | None) -> int:
    """Send a run to experiment trackers, or all studies of an ablation.

    A tracker gets what it lacks: to send a run twice changes nothing. Exit code 1 if a tracker failed.
    """
    from analysis.trackers import names, send
    from study.definition.study_file import load_study
    from trainables.settings.errors import ConfigError

    try:
        folders = send.runs_in(run_dir)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    file = folders[0] / "study.yaml"
    listed = load_study(file).track if file.is_file() else {}
    wanted = {name: at or listed.get(name) for name in trackers or listed}
    wrong = [f"--to: {fault}" for fault in names.faults(wanted)]
    if not wanted:
        wrong.append(f"--to: no tracker given, and the study has no `track`; there are {', '.join(names.TRACKERS)}")
    if at is not None and len(wanted) > 1:
        wrong.append(f"--at: one address for {len(wanted)} trackers; give one tracker with --to")
    if wrong:
        raise ConfigError(wrong)
    code = DONE
    for name, place in wanted.items():
        try:
            changed = sum(send.send(folder, name, place) for folder in folders)
            click.echo(f"{name}: {changed} run{'s' * (changed != 1)} sent" if changed else f"{name}: up to date")
        except Exception as error:  # of any library
            click.echo(f"{name}: {send.reason(error)}", err=True)
            code = NO_RESULT
    return code
