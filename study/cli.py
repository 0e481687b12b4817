"""The command line. Imports nothing heavy: torch and ray come with the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.text.terminal import Unwritten, guarded, open_streams
from study.definition.exit_codes import DONE, EPILOG, INTERRUPTED, NO_RESULT, WRONG_INPUT
from study.exits import Unexpected, cut_short, exit_code, unexpected
from study.options import ACCEPT, DIALECT, JSON, OTHER_ENCODER, RETRY, RUN, SCALE, SEEDS, SET, STORE, STUDY, TASKS, TEXT

if TYPE_CHECKING:
    from study.ablations.grid import Grid
    from study.definition.models import Study


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-study")
def cli() -> None:
    """Hyperparameter studies of fine-tuning BERT-like encoders, on one machine or a Ray cluster."""


@cli.command(epilog=EPILOG)
@STUDY
@SET
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="Run folder. Default: runs/<name of the study>.")
@click.option("--address", metavar="ADDRESS", help="Join the Ray cluster there instead of starting one here.")
@STORE
@ACCEPT
@RETRY
def run(
    study_file: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    address: str | None,
    store: str | None,
    accept_changed_inputs: bool,
    retry_failed: bool,
) -> int:
    """Run a study, or go on with one that was interrupted or whose budget was raised.

    STUDY.yaml may also be a run folder, whose own study is then gone on with. Ctrl-C saves and stops; the same command goes on.
    """
    study = _load(study_file, overrides)
    from study.run import launch

    run_dir = out or (study_file if study_file.is_dir() else Path("runs") / study.name)
    options = {"out": out, "address": address, "store": store}
    words = [_quoted(study_file), *(f"--set {_quoted(text)}" for text in overrides)]
    again = " ".join(["study run", *words, *(f"--{name} {_quoted(value)}" for name, value in options.items() if value)])
    return _to_its_end(
        lambda: launch.run(study, run_dir, store, address, None, accept_changed_inputs, retry_failed), run_dir, again
    )


def _to_its_end(work: Callable[[], Any], folder: Path, again: str) -> int:
    """Run a study or an ablation and say how it ended; the exit code. What broke unexpectedly is written to the folder's log."""
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


@cli.command(epilog=EPILOG)
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--list", "as_list", is_flag=True, help="The ablations that come with the package.")
@SCALE
@TASKS
@SEEDS
@OTHER_ENCODER
@SET
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="Run folder. Default: runs/NAME-SCALE.")
@click.option("--address", metavar="ADDRESS", help="Join the Ray cluster there instead of starting one here.")
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
    saves and stops; the same command goes on.
    """
    from study.ablations import reproduce as runs

    if as_list or name is None:
        click.echo(runs.listing())
        return DONE
    grid = _grid(name, scale, only, seeds, encoder, overrides)
    click.echo("\n".join([f"{grid.ablation.name} at scale {grid.scale}: {grid.ablation.title}", *_changes(grid)]))
    folder = out or Path("runs") / grid.name
    options = {"scale": scale, "tasks": only, "seeds": seeds, "encoder": encoder, "out": out, "address": address, "store": store}
    words = [_quoted(name), *(f"--set {_quoted(text)}" for text in overrides)]
    again = " ".join(["study reproduce", *words, *(f"--{key} {_quoted(value)}" for key, value in options.items() if value)])
    return _to_its_end(
        lambda: runs.run(grid, folder, store, address, click.echo, accept_changed_inputs, retry_failed), folder, again
    )


def _changes(grid: Grid) -> list[str]:
    """What a scale changes, as lines."""
    told = [f"({grid.says})"] if grid.says else []
    return (
        [*told, *(f"  {line}" for line in grid.changes)]
        if grid.changes
        else [f"  as {'published' if grid.ablation.source else 'in its file'}"]
    )


def _grid(
    name: str,
    scale: str | None,
    only: str | None,
    seeds: int | None,
    encoder: str | None,
    overrides: tuple[str, ...],
    placeholders: bool = False,
) -> Grid:
    """An ablation as the options say. Raises ConfigError."""
    from study.ablations import ablation_file, grid
    from study.survey.tasks import encoder_named

    tasks = [each.strip() for each in (only or "").split(",") if each.strip()]
    named = encoder_named(encoder, absolute=True) if encoder else None
    loaded = ablation_file.load(name)
    scale = scale or ("small" if "small" in loaded.ablation.scales else "paper")
    return grid.grid(loaded, scale, tasks, seeds, named, overrides, placeholders)


@cli.command(epilog=EPILOG)
@click.argument("names", metavar="STUDY.yaml|ABLATION...", nargs=-1, required=True)
@SET
@STORE
@SCALE
@TASKS
@SEEDS
@OTHER_ENCODER
@click.option("--gpu", metavar="NAME", help="Hours and memory of an ablation on this GPU, such as H100.")
def plan(
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str | None,
    scale: str | None,
    only: str | None,
    seeds: int | None,
    encoder: str | None,
    gpu: str | None,
) -> int:
    """Show the stage tree, what is cached, and what a study or a whole ablation would cost. Computes nothing.

    Several ablations are planned as in one store, where what they have in common is computed once; options are for all of them.
    """
    from study.ablations import ablation_file
    from trainables.store.store import Store

    studies = [name for name in names if Path(name).exists() and not ablation_file.is_ablation(name)]
    if not studies:
        import os

        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # a plan downloads nothing
        from study.ablations import grid_plan_text

        grids = [_grid(name, scale, only, seeds, encoder, overrides, placeholders=True) for name in dict.fromkeys(names)]
        click.echo(grid_plan_text.show(grids[0], Store(store or Store.default().url), gpu, *grids[1:]))
        if gpu is None:
            _say_unfit(part.study for grid in grids for part in grid.parts)
        return DONE
    if len(names) > 1:
        raise click.UsageError(f"{studies[0]} is a study; several in one plan must all be ablations")
    name = studies[0]
    given = {"--scale": scale, "--tasks": only, "--seeds": seeds, "--encoder": encoder, "--gpu": gpu}
    if wrong := [option for option, value in given.items() if value is not None]:
        raise click.UsageError(f"{', '.join(wrong)}: for ablations only, and {name} is a study")
    study = _load(Path(name), overrides)
    from study.planning import plan_text

    click.echo(plan_text.show(study, Store(store or study.store or Store.default().url)))
    _say_unfit([study])
    return DONE


def _say_unfit(studies: Iterable[Study]) -> None:
    """Says which resources this machine does not have: a plan may be for another one, a run here is refused."""
    from study.cluster.machine import check_resources
    from study.cluster.ray_session import machine_for
    from trainables.settings.errors import ConfigError

    faults: dict[str, None] = {}
    for study in studies:
        try:
            check_resources(study.resources, machine_for(study.resources))
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    for fault in faults:
        click.echo(f"\nnot on this machine, where a run is refused: {fault}")


@cli.command(epilog=EPILOG)
@RUN
def status(run_dir: Path) -> int:
    """Show how far a study is, running or not, from any terminal: by its records; and whether small local inputs have changed."""
    from study.review import status as states

    click.echo(states.show(run_dir))
    return DONE


@cli.command(epilog=EPILOG)
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "formats", metavar="NAMES", help="By comma: html, md, tex, csv, json, pdf. Default: all but the PDF.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Default: RUN/report; of several runs ./report.")
def report(run_dirs: tuple[Path, ...], formats: str | None, out: Path | None) -> int:
    """Remake tables, figures and the page of runs from their records: of studies, and of ablations with verdicts on their claims.

    Of several runs it is one report: what each asked and found, all cells in one table, and in a folder of its name the report of
    each. A PDF needs Chromium or Chrome.
    """
    from analysis.pages import reports
    from analysis.pages.pdf import NoBrowser
    from trainables.settings.errors import ConfigError

    try:
        made = reports.write(run_dirs, out, reports.formats(formats))
    except (FileNotFoundError, ValueError, NoBrowser) as error:
        raise ConfigError(str(error).split("\n")) from None
    except OSError as error:
        where = out or (run_dirs[0] / "report" if len(run_dirs) == 1 else reports.OUT)
        raise ConfigError([f"--out {where}: {error.strerror or error}; give a folder that can be written"]) from None
    for each in made.lost:
        click.echo(each, err=True)
    click.echo(f"report: {made.page}")
    return DONE


@cli.command(epilog=EPILOG)
@click.argument("one", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN_B", type=click.Path(path_type=Path))
@JSON
def compare(one: Path, other: Path, as_json: bool) -> int:
    """Compare the finals of two runs, studies or ablations, by task and setting: paired over the test texts, a verdict for each."""
    from analysis.results import compare as comparisons
    from trainables.settings.errors import ConfigError

    try:
        click.echo(comparisons.as_json(one, other) if as_json else comparisons.text(one, other), nl=False)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    return DONE


@cli.command(epilog=EPILOG)
@RUN
@click.option("--out", metavar="FILE.html", type=click.Path(path_type=Path), help="Write a page instead.")
@click.option("--texts", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Most texts of each set.")
@STORE
def marks(run_dir: Path, out: Path | None, texts: int, store: str | None) -> int:
    """Show which words a run with selective masking marked: in the task's texts, with scores, and in its corpora.

    In colour on a terminal, else as plain text.
    """
    from study.review import marks as words

    found = words.load(run_dir, store, texts)
    if out:
        words.write(found, words.name_of(run_dir), out)
        click.echo(f"marks: {out}")
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(words.coloured(found))
    else:
        click.echo(words.plain(found))
    return DONE


@cli.command(epilog=EPILOG)
@RUN
@click.argument("cell", metavar="CELL")
@click.option("--task", metavar="NAME", help="Which task, where the cell is there for several.")
@click.option("--seed", metavar="N", type=int, help="Which seed. Default: the first that has a number.")
@STORE
def trace(run_dir: Path, cell: str, task: str | None, seed: int | None, store: str | None) -> int:
    """Compute one number again, and say whether it came out again.

    CELL is a setting's label as tables show it, `row` or `row | column`, or the name of a final. Its fine-tuning and test are run
    anew in a store of their own; further pre-training comes from the store. Exit code 1 where the number is another one.
    """
    from study.review import trace as traces

    found = traces.trace(run_dir, cell, task, seed, store)
    click.echo(str(found))
    return DONE if found.again else NO_RESULT


@cli.command(epilog=EPILOG)
@click.argument("study_file", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path))
@STORE
def doctor(study_file: Path | None, store: str | None) -> int:
    """Say what this machine offers (and whether data and encoder of a study are in order), and what to do about what is wrong.

    Exit code 1 where something of the machine is wrong; 2, as of `study run`, where something of the study is.
    """
    study = _load(study_file, ()) if study_file else None
    from study.survey import doctor as doctors

    signs = {"ok": click.style("ok  ", fg="green"), "warn": click.style("warn", fg="yellow"), "fail": click.style("FAIL", fg="red")}
    worst = DONE
    store = store or (study.store if study else None)
    for finding in doctors.examine(store, study):
        click.echo(f"{signs[finding.sign]}  {finding.what}: {finding.found}")
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
        worst = max(worst, finding.exit_code)
    return worst


@cli.command(epilog=EPILOG)
@click.argument("names", metavar="[NAME|FILE]...", nargs=-1)
@click.option("--stats", is_flag=True, help="What is in them: of known tasks, files of texts, the tasks of a STUDY.yaml.")
@TEXT
@DIALECT
@click.option("--text-pair", metavar="COLUMN", multiple=True, help="Column of a FILE with the second text of pairs; repeatable.")
@click.option("--label", metavar="COLUMN", default="label", show_default=True, help="Column of a FILE that holds the label.")
@click.option(
    "--encoder", metavar="FOLDER|HUB", help="Whose pieces lengths count. Default: the study's, or the quickstart's if installed."
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=512, show_default=True, help="Longest sequence, in pieces."
)
@JSON
def tasks(
    names: tuple[str, ...],
    stats: bool,
    text: tuple[str, ...],
    text_pair: tuple[str, ...],
    label: str,
    encoder: str | None,
    limit: int,
    as_json: bool,
    **dialect: str | None,
) -> int:
    """List the data sets of the papers, where each comes from and how to bring it; with --stats, measure them.

    --stats gives Table 1 of Sun et al. 2019 for known tasks, your own csv, tsv, jsonl or parquet, or the tasks of a study file.
    """
    from study.survey import tasks as table

    if stats:
        found = table.measured(names, text, label, encoder, limit, text_pair, dialect)
        click.echo(_json(table.plain_statistics(found)) if as_json else table.show_statistics(found))
    else:
        click.echo(_json(table.listing(names)) if as_json else table.show(names))
    return DONE


@cli.command(epilog=EPILOG)
def recipes() -> int:
    """List the papers' recipes, each of which a study file can name in one line: `recipe: TAPT`."""
    from study.definition import recipes as table

    click.echo(table.show())
    return DONE


@cli.command(epilog=EPILOG)
@click.argument("encoder", metavar="[FOLDER|HUB]", required=False)
@JSON
def encoders(encoder: str | None, as_json: bool) -> int:
    """List what works with which family of encoders; of one encoder, load it and try."""
    from study.survey import encoders as table

    if encoder is not None:
        found = table.measured(encoder)
        click.echo(_json(found) if as_json else table.show_measured(found))
    else:
        click.echo(_json(table.listing()) if as_json else table.show())
    return DONE


@cli.command(epilog=EPILOG)
@click.argument("sources", metavar="TASK|FILE...", nargs=-1, required=True)
@TEXT
@DIALECT
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=10_000, show_default=True, help="Unigrams of a vocabulary.")
@click.option(
    "--form",
    type=click.Choice(["paper", "jaccard"]),
    default="paper",
    show_default=True,
    help="Shared words by --top, or by those of either.",
)
@click.option("--out", metavar="FILE.svg", type=click.Path(path_type=Path), help="Write a heat map too.")
@JSON
def overlap(
    sources: tuple[str, ...], text: tuple[str, ...], top: int, form: str, out: Path | None, as_json: bool, **dialect: str | None
) -> int:
    """Compare the vocabularies of texts, as Gururangan et al. 2020 do in Figure 2: does a corpus resemble my task?

    Known tasks (their training texts), csv, tsv, jsonl or parquet files, .txt files with a text a line, tasks of a STUDY.yaml.
    """
    from study.survey import overlap as overlaps

    found = overlaps.compare(sources, text, form, top, dialect)
    if out:
        overlaps.write(found, out)
    click.echo(_json(overlaps.plain(found)) if as_json else overlaps.show(found))
    return DONE


def _json(data: object) -> str:
    import json

    return json.dumps(data, indent=2, ensure_ascii=False)


def _load(path: Path, overrides: tuple[str, ...]) -> Study:
    """The study of a file or of a run folder. Raises ConfigError."""
    from study.definition.study_file import load_study

    return load_study(path / "study.yaml" if path.is_dir() else path, overrides)


def _quoted(value: Any) -> str:
    import shlex

    return shlex.quote(str(value))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every error is one clear message on stderr and an exit code."""
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
