"""`study tasks`: the table of known data sets, and statistics of data sets, as text of 80 columns, JSON and docs/tasks.md."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from trainables.data.known_tasks import KNOWN, PAPERS, TABLE, TEXTS, Known, instructions, resolve
from trainables.settings.dialect import options_said
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError, near
from trainables.settings.task import Task
from trainables.settings.validate import validate

if TYPE_CHECKING:
    from study.survey.dataset_statistics import Ruler, SplitStatistics, Statistics

WIDTH = 80
INDENT = "    "
STUDY_FILES = (".yaml", ".yml")
HEAD = f"{'set':<15}{'classes':>8}  {'domain':<16}  {'metric':<20}  papers"


@dataclass(frozen=True)
class TextSource:
    """What a command-line argument names: a task, or a file of the user's."""

    name: str
    task: Task | None
    file: str | None = None


# The table -----------------------------------------------------------------------------------------------------------------------


def show(names: Sequence[str] = ()) -> str:
    """Format the table, or the named sets with instructions to get them by hand. Raises ConfigError with every unknown name."""
    _check(names)
    lines = [HEAD]
    for name in names or TABLE:
        lines += _entry(name, TABLE[name], whole=bool(names))
    lines += ["", *(line for paper, title in PAPERS.items() for line in _wrapped(f"{_short(paper)}: {title}", ""))]
    if not names:
        lines += ["", "Details of a set: study tasks NAME. Its statistics: study tasks --stats NAME"]
    return "\n".join(lines)


def listing(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the same as plain data. Raises ConfigError with every unknown name."""
    _check(names)
    return [_plain(name, TABLE[name]) for name in names or TABLE]


def _check(names: Sequence[str]) -> None:
    """Raise ConfigError with every name that is not in the table."""
    if faults := [f"{name!r} is not a known task{_hint(name)}" for name in names if name not in TABLE]:
        raise ConfigError(faults)


def _hint(name: str) -> str:
    return "; for a file of your own: study tasks --stats FILE" if _is_file(name) else near(name, TABLE)


def _entry(name: str, known: Known, *, whole: bool) -> list[str]:
    papers = ", ".join(_short(paper) for paper in known.reported)
    count = "–" if known.classes is None else str(known.classes)
    lines = [f"{name:<15}{count:>8}  {known.domain:<16}  {known.metrics:<20}  {papers}".rstrip()]
    lines += _wrapped(f"{_where(known)}; licence: {known.licence}")
    if whole and (how := instructions(name)):
        lines += _wrapped(f"how: {how}")
    return lines


def _wrapped(text: str, indent: str = INDENT) -> list[str]:
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=INDENT, break_on_hyphens=False, break_long_words=False)


def _short(paper: str) -> str:
    return paper.rstrip("0123456789")


def _where(known: Known) -> str:
    if known.task is None:
        return "by hand"
    columns = f"{_columns(known.task)} -> {', '.join(known.task.label_columns)}"
    return f"hub {known.task.hub} ({columns})" if known.task.hub else f"with the package ({columns})"


def _columns(task: Task) -> str:
    """The columns of the text; for a pair those of both texts, separated by a bar."""
    return " | ".join(", ".join(columns) for columns in (task.text_columns, task.second_columns) if columns)


def _plain(name: str, known: Known) -> dict[str, Any]:
    task = known.task
    return {
        "name": name,
        "source": "by hand" if task is None else "hub" if task.hub else "package",
        "hub": task and task.hub,
        "revision": task and task.revision,
        "text": task and list(task.text_columns),
        "text_pair": list(task.second_columns) or None if task else None,
        "label": task and task.label,
        "classes": known.classes,
        "domain": known.domain,
        "licence": known.licence,
        "reported": dict(known.reported),
        "by_hand": instructions(name) or None,
    }


def document() -> str:
    """Return docs/tasks.md, from the table."""
    lines = [
        "# Tasks",
        "",
        "Written by `make docs` from `known_tasks.py`. A study file may name a known task without further fields:",
        "`tasks: [imdb, ag_news]` or `tasks: {imdb: known}`. *By hand* are sets without a copy on the hub that is known to be the",
        "paper's own: for these, the message says what to download and what to write in the study file.",
        "",
        "```bash",
        "study tasks                                          # this table",
        "study tasks chemprot                                 # how to get a set by hand",
        "study tasks --stats sls_imdb                         # examples, lengths, copies, classes",
        "study tasks --stats reviews.csv --text review --label stars",
        "study tasks --stats faq.csv --text question --text-pair answer --label topic",
        "study overlap sls_imdb sls_yelp sls_amazon --out overlap.svg",
        "```",
        "",
        "A bar separates the two texts of a pair.",
        "",
        "| set | where | text → label | classes | domain | metric | papers | licence |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, known) for name, known in TABLE.items()),
        "",
        *(f"- **{_short(paper)}**: {title}" for paper, title in PAPERS.items()),
        "",
        "## By hand",
        "",
        "Also for machines without access to the hub.",
        "",
        *(f"- **{name}**: {instructions(name)}." for name in TABLE if instructions(name)),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, known: Known) -> str:
    task = known.task
    where = "by hand" if task is None else f"`{task.hub}`" if task.hub else "package"
    columns = "" if task is None else f"{_columns(task)} → {', '.join(task.label_columns)}".replace("|", r"\|")
    papers = ", ".join(_short(paper) for paper in known.reported)
    cells = [f"`{name}`", where, columns, known.classes or "–", known.domain, known.metrics, papers, known.licence]
    return f"| {' | '.join(map(str, cells))} |"


# Arguments -----------------------------------------------------------------------------------------------------------------------


def named(arguments: Sequence[str]) -> tuple[list[TextSource], Encoder | None]:
    """Return (tasks and files that the arguments name, in order; the encoder of the last study file among them).

    An argument is a known task, a study file (its tasks), or a file of texts. Raises ConfigError with every fault at once.
    """
    entries: list[TextSource] = []
    faults: list[str] = []
    encoder: Encoder | None = None
    for argument in arguments:
        try:
            if argument in TABLE:
                entries.append(TextSource(argument, resolve(argument)))
            elif argument.endswith(STUDY_FILES):
                tasks, encoder = _of_study(argument)
                entries += tasks
            elif _is_file(argument):
                entries.append(TextSource(Path(argument).name, None, argument))
            else:
                faults.append(f"{argument!r} is neither a known task nor a file{near(argument, TABLE)}")
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return entries, encoder


def _is_file(argument: str) -> bool:
    return "." in Path(argument).name or "/" in argument or Path(argument).is_file()


def _of_study(path: str) -> tuple[list[TextSource], Encoder]:
    from study.definition.study_file import load_study

    study = load_study(path)
    return [TextSource(name, task) for name, task in study.tasks.items()], study.encoder


# Statistics ----------------------------------------------------------------------------------------------------------------------


def measured(
    arguments: Sequence[str],
    columns: Sequence[str] = ("text",),
    label: str = "label",
    encoder: str | None = None,
    limit: int = 512,
    second: Sequence[str] = (),
    dialect: Mapping[str, str | None] | None = None,
) -> list[Statistics]:
    """Compute statistics of every argument, without any of the shipped sets; `second` are the columns of a pair's second text.

    `dialect` holds the fields of a task on the format of csv and tsv files. Raises ConfigError.
    """
    from study.survey.dataset_statistics import statistics

    shipped = [name for name, task in KNOWN.items() if task.train is not None and Path(task.train).is_relative_to(TEXTS)]
    entries, of_study = named(arguments or shipped)
    with_ruler = _ruler(encoder, of_study)
    own = {"text": tuple(columns), "text_pair": tuple(second) or None, "label": label, **(dialect or {})}
    results: list[Statistics] = []
    faults: list[str] = []
    for entry in entries:
        try:
            task = entry.task or validate(Task, {"train": entry.file, **own})
            measured_one = statistics(entry.name, task, with_ruler, limit)
            notices = tuple(_of_file(notice, entry) for notice in measured_one.notices)
            results.append(dataclasses.replace(measured_one, notices=notices))
        except ConfigError as error:
            faults += [_of_file(fault, entry) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return results


def _of_file(fault: str, entry: TextSource) -> str:
    """Rewrite a fault to name the file instead of a split, for a file of the user's."""
    if entry.file is None:
        return f"tasks.{fault}"
    fault = options_said(fault.removeprefix(f"{entry.name}.train: ").removeprefix(f"{entry.name}: "))
    return fault if fault.startswith(entry.file) else f"{entry.file}: {fault}"


def _ruler(name: str | None, of_study: Encoder | None) -> Ruler:
    """The ruler of the named encoder; without a name that of the study file, if there is one."""
    from study.survey.dataset_statistics import ruler

    if name is None:
        return ruler(of_study)
    try:
        return ruler(encoder_named(name))
    except ConfigError as error:
        raise ConfigError(f"--encoder {name}: {fault}" for fault in error.faults) from None


def encoder_named(name: str, absolute: bool = False) -> Encoder:
    """Return the encoder of a name: the quickstart's by its package, a folder if it exists or looks like one, else the hub's."""
    from study.survey.dataset_statistics import QUICKSTART

    if name in (QUICKSTART.package, f"{QUICKSTART.package}/{QUICKSTART.folder}"):
        return QUICKSTART
    is_folder = Path(os.path.expanduser(name)).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    folder = str(Path(os.path.expanduser(name)).absolute()) if absolute else name
    return Encoder(folder=folder) if is_folder else Encoder(hub=name)


def show_statistics(results: Sequence[Statistics]) -> str:
    """Format statistics as tables of 80 columns, one column per split."""
    return "\n\n".join("\n".join(_statistics(data_set)) for data_set in results)


def _statistics(statistics: Statistics) -> Iterator[str]:
    ruler = statistics.ruler
    special = (
        f", and {statistics.special_tokens} special tokens a {'pair' if statistics.pairs else 'text'}"
        if statistics.special_tokens
        else ""
    )
    unit = "characters, since words are written without spaces" if statistics.characters else ruler.unit
    yield from wrap(f"{statistics.name}: {statistics.classes} classes; lengths in {unit} ({ruler.name}{special})", WIDTH)
    yield _cells("", statistics.splits)
    splits = statistics.splits.values()
    for title, cells in ROWS:
        if title in OF_PAIRS and not statistics.pairs:
            continue
        yield _cells(title.format(limit=statistics.limit), [cells(split) for split in splits])
    for notice in statistics.notices:
        yield from wrap(f"notice: {notice}", WIDTH, break_on_hyphens=False)


def _cells(title: str, cells: Iterable[object]) -> str:
    return f"{title:<32}" + "".join(f" {str(cell)[:15]:>15}" for cell in cells)


def _class(split: SplitStatistics, place: int) -> str:
    return list(split.labels)[place] if split.labels else "–"


def _class_share(split: SplitStatistics, place: int) -> str:
    total = sum(split.labels.values())
    return f"{100 * list(split.labels.values())[place] / total:.1f}" if total else "–"


def _side(split: SplitStatistics, place: int) -> str:
    return f"{split.mean_of_sides[place]:.1f}" if split.mean_of_sides else "–"


OF_PAIRS = ("  of the first text", "  of the second text")
"""Titles of the lines that only pairs of texts have."""
ROWS: tuple[tuple[str, Callable[[SplitStatistics], object]], ...] = (
    ("examples", lambda s: s.examples),
    ("  without text", lambda s: s.empty),
    ("  without label", lambda s: s.unlabelled),
    ("length, mean", lambda s: f"{s.mean:.1f}"),
    ("  of the first text", lambda s: _side(s, 0)),
    ("  of the second text", lambda s: _side(s, 1)),
    ("length, median", lambda s: f"{s.median:g}"),
    ("length, 90th percentile", lambda s: s.p90),
    ("length, 99th percentile", lambda s: s.p99),
    ("length, maximum", lambda s: s.maximum),
    ("over {limit}, %", lambda s: f"{s.over_limit_percent:.2f}"),
    ("repeated in the split", lambda s: s.repeats_exact),
    ("  but for case and white space", lambda s: s.repeats_normalised),
    ("also in an earlier split", lambda s: s.shared_exact),
    ("  but for case and white space", lambda s: s.shared_normalised),
    ("largest class", lambda s: _class(s, 0)),
    ("  its share, %", lambda s: _class_share(s, 0)),
    ("smallest class", lambda s: _class(s, -1)),
    ("  its share, %", lambda s: _class_share(s, -1)),
)
"""[(title of a line, function that returns its text)]"""


def plain_statistics(results: Sequence[Statistics]) -> list[dict[str, Any]]:
    """Return statistics as plain data."""
    return [
        {
            "name": data_set.name,
            "classes": data_set.classes,
            "encoder": data_set.ruler.name if data_set.ruler.unit == "pieces" else None,
            "unit": data_set.ruler.unit,
            "special_tokens": data_set.special_tokens,
            "pairs": data_set.pairs,
            "limit": data_set.limit,
            "notices": list(data_set.notices),
            "splits": {name: dataclasses.asdict(split) for name, split in data_set.splits.items()},
        }
        for data_set in results
    ]
