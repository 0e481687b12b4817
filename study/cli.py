"""The command line. Imports no heavy package: torch and Ray are imported by the commands that need them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from analysis.text.terminal import Unwritten, guarded, open_streams
from study.commands import own_data, plan, predict, review, run, survey, track
from study.commands.exits import exit_code, unexpected
from study.definition.exit_codes import DONE, EPILOG, INTERRUPTED, WRONG_INPUT


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-study")
def cli() -> None:
    """Hyperparameter studies of fine-tuning BERT-like encoders, on one machine or a Ray cluster."""


for command in (own_data.init, run.run, run.reproduce, plan.plan):
    cli.add_command(command)
for command in (review.status, review.report, review.compare, review.marks, review.trace, track.track):
    cli.add_command(command)
for command in (review.export, predict.predict):
    cli.add_command(command)
for command in (survey.doctor, survey.tasks, survey.recipes, survey.encoders, survey.overlap):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Every error becomes one message on stderr and an exit code."""
    open_streams()
    sys.exit(guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    try:
        return int(cli.main(args=None if arguments is None else list(arguments), prog_name="study", standalone_mode=False) or DONE)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return WRONG_INPUT
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Unwritten:
        raise
    except Exception as error:
        code = exit_code(error)
        if code is not None:
            faults = getattr(error, "faults", None) or [str(error)]
            for fault in faults:
                click.echo(f"error: {fault}", err=True)
            return code
        return unexpected(error)
