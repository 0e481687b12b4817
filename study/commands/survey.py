"""Commands on the machine and the data: `study doctor`, `tasks`, `recipes`, `encoders` and `overlap`."""

from __future__ import annotations

from pathlib import Path

import click

from study.commands.options import DIALECT, JSON, STORE, TEXT, json_text
from study.definition.exit_codes import DONE, EPILOG


@click.command(epilog=EPILOG)
@click.argument("study_file", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path))
@STORE
@JSON
def doctor(study_file: Path | None, store: str | None, as_json: bool) -> int:
    """Check this machine, and data, encoder and memory of a study, and advise how to repair what is wrong.

    Exit code 1 if something is wrong with the machine; 2, as for `study run`, if something is wrong with the study. The keys of
    --json are in docs/plans.md.
    """
    from study.definition.study_file import load_study_at
    from study.survey import doctor as doctors

    study = load_study_at(study_file) if study_file else None

    signs = {"ok": click.style("ok  ", fg="green"), "warn": click.style("warn", fg="yellow"), "fail": click.style("FAIL", fg="red")}
    worst = DONE
    store = store or (study.store if study else None)
    if as_json:
        found = list(doctors.examine(store, study))
        worst = max(finding.exit_code for finding in found)
        click.echo(json_text({"exit_code": worst, "findings": [finding.as_json() for finding in found]}))
        return worst
    for finding in doctors.examine(store, study):
        click.echo(f"{signs[finding.sign]}  {finding.what}: {finding.text}")
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
        worst = max(worst, finding.exit_code)
    return worst


@click.command(epilog=EPILOG)
@click.argument("names", metavar="[NAME|FILE]...", nargs=-1)
@click.option("--stats", is_flag=True, help="Measure them: known tasks, files of texts, the tasks of a STUDY.yaml.")
@TEXT
@DIALECT
@click.option("--text-pair", metavar="COLUMN", multiple=True, help="Column of a FILE with the second text of pairs; repeatable.")
@click.option("--label", metavar="COLUMN", default="label", show_default=True, help="Column of a FILE that holds the label.")
@click.option(
    "--encoder",
    metavar="FOLDER|HUB",
    help="Encoder that divides texts into pieces. Default: the study's, or the quickstart's if installed.",
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
    """List the data sets of the papers, their sources and how to get them by hand; with --stats, measure them.

    --stats prints Table 1 of Sun et al. 2019 for known tasks, csv, tsv, jsonl or parquet files, or the tasks of a study file.
    """
    from study.survey import tasks as table

    if stats:
        results = table.measured(names, text, label, encoder, limit, text_pair, dialect)
        click.echo(json_text(table.plain_statistics(results)) if as_json else table.show_statistics(results))
    else:
        click.echo(json_text(table.listing(names)) if as_json else table.show(names))
    return DONE


@click.command(epilog=EPILOG)
def recipes() -> int:
    """List the papers' recipes. A study file uses one by its name: `recipe: TAPT`."""
    from study.definition import recipes as table

    click.echo(table.show())
    return DONE


@click.command(epilog=EPILOG)
@click.argument("encoder", metavar="[FOLDER|HUB]", required=False)
@JSON
def encoders(encoder: str | None, as_json: bool) -> int:
    """List which features work with which family of encoders; for one encoder, load it and try them."""
    from study.survey import encoders as table

    if encoder is not None:
        results = table.measured(encoder)
        click.echo(json_text(results) if as_json else table.show_measured(results))
    else:
        click.echo(json_text(table.listing()) if as_json else table.show())
    return DONE


@click.command(epilog=EPILOG)
@click.argument("sources", metavar="TASK|FILE...", nargs=-1, required=True)
@TEXT
@DIALECT
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=10_000, show_default=True, help="Size of a vocabulary.")
@click.option(
    "--form",
    type=click.Choice(["paper", "jaccard"]),
    default="paper",
    show_default=True,
    help="Divide the shared words by --top, or by the words of both together.",
)
@click.option("--out", metavar="FILE.svg", type=click.Path(path_type=Path), help="Also write a heat map.")
@JSON
def overlap(
    sources: tuple[str, ...], text: tuple[str, ...], top: int, form: str, out: Path | None, as_json: bool, **dialect: str | None
) -> int:
    """Compare the vocabularies of texts, to see how closely a corpus resembles a task.

    As in Figure 2 of Gururangan et al. 2020. Takes known tasks (their training texts), csv, tsv, jsonl or parquet files, .txt files
    with one text a line, and the tasks of a STUDY.yaml.
    """
    from study.survey import overlap as overlaps

    result = overlaps.compare(sources, text, form, top, dialect)
    if out:
        overlaps.write(result, out)
    click.echo(json_text(overlaps.plain(result)) if as_json else overlaps.show(result))
    return DONE
