"""Exit codes of the command, and its messages when a study ends early. Imports no heavy package."""

from __future__ import annotations

import traceback

import click

from analysis.text.terminal import STOPPED
from study.definition.exit_codes import IN_USE, INTERRUPTED, NO_RESULT, WRONG_INPUT


def cut_short(end: BaseException, again: str) -> int:
    """Print why a study ended early and the command that resumes it; return the exit code."""
    from study.cluster.machine_faults import StudyStopped

    if not isinstance(end, StudyStopped):
        click.echo(f"{str(end) or 'interrupted'}; nothing that was evaluated is lost. Resume with:\n  {again}", err=True)
        return INTERRUPTED
    click.echo(f"stopped: {end.reason}", err=True)
    if end.advice:
        click.echo(f"  {end.advice}", err=True)
    click.echo(f"no trial counts as failed, and nothing that was evaluated is lost. Then resume with:\n  {again}", err=True)
    return STOPPED


class Unexpected(Exception):
    """An unexpected error; its argument is the file with the traceback, or None."""


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an expected error; None for an unexpected one."""
    from study.run.lock import RunInUse
    from trainables.settings.errors import ConfigError

    if isinstance(error, RunInUse):
        return IN_USE
    return WRONG_INPUT if isinstance(error, ConfigError) else None


def unexpected(error: Exception) -> int:
    """Print an unexpected error and the place of its traceback; return the exit code."""
    from study.cluster.machine_faults import fault_of

    if isinstance(error, Unexpected):
        cause = error.__cause__
        fault = fault_of(cause) if cause is not None else None
        advice = f"; {fault.advice}, then run the same command again to resume" if fault else ""
        click.echo(f"error: {type(cause).__name__}: {cause}{advice}\nthe traceback is in {error.args[0]}", err=True)
        return NO_RESULT
    import os
    import tempfile

    handle, path = tempfile.mkstemp(prefix="study-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    click.echo(f"error: {type(error).__name__}: {error}\nthe traceback is in {path}", err=True)
    return NO_RESULT
