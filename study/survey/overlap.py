"""`study overlap`: the vocabulary overlap of sources of text, as a table of 80 columns, JSON and a heat map in SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap
from typing import Any

from analysis.figures.svg import Figure
from analysis.text.plain import plain as plain_line
from study.survey.tasks import TextSource, named
from trainables.settings.dialect import Dialect, dialect_faults, options_said
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import suffix

WIDTH = 80
MOST = 18
"""Largest number of sources: a table of 80 columns has room for these."""
TITLES = {"paper": "|A and B| / {top:,}, in percent", "jaccard": "|A and B| / |A or B|, in percent"}
CELL, LETTER = 0.5, 0.08
"""Heat map, in inches: smallest side of a cell and width of a letter."""
COLOURS = ("#f7fbff", "#08306b")
"""Colours of 0 and 100 %."""


@dataclass(frozen=True)
class Overlap:
    """The vocabulary overlap of several sources."""

    names: tuple[str, ...]
    texts: tuple[int, ...]
    """Number of texts of each source."""
    unigrams: tuple[int, ...]
    """Number of distinct unigrams of each source without stop words, before the cut at `top`."""
    form: str
    top: int
    percent: tuple[tuple[float, ...], ...]
    """[sources, sources]"""
    spaceless: tuple[str, ...] = ()
    """Sources with most letters in scripts without spaces: two adjacent characters count as a word there."""
    notices: tuple[str, ...] = ()
    """Notices to the user on how the files were read."""


def compare(
    arguments: Sequence[str],
    columns: Sequence[str] = ("text",),
    form: str = "paper",
    top: int = 10_000,
    dialect: Mapping[str, str | None] | None = None,
) -> Overlap:
    """Compare the sources that the arguments name: the training split of tasks, all texts of files.

    `dialect` holds the fields of a task on the format of csv and tsv files. Raises ConfigError.
    """
    from study.survey.vocabulary_overlap import matrix, unigrams, vocabulary
    from trainables.data.scripts import mostly_spaceless

    sources, _ = named(arguments)
    if not 2 <= len(sources) <= MOST:
        raise ConfigError([f"study overlap: {len(sources)} sources given; it compares 2 to {MOST}"])
    texts, notices = _texts(sources, columns, _dialect_of(sources, dialect or {}))
    counts = [unigrams(documents) for documents in texts]
    percent = matrix([vocabulary(count, top) for count in counts], form, top)
    short = [source.name for source in sources]
    names = tuple(source.name if short.count(source.name) == 1 else source.file or source.name for source in sources)
    spaceless = tuple(name for name, documents in zip(names, texts, strict=True) if mostly_spaceless(documents))
    sizes = (tuple(map(len, texts)), tuple(map(len, counts)))
    return Overlap(names, *sizes, form, top, tuple(map(tuple, percent)), spaceless, notices)


def _dialect_of(sources: Sequence[TextSource], options: Mapping[str, str | None]) -> Dialect:
    """Return the format of files that the options describe. Raises ConfigError if it applies to none of the files."""
    dialect = Dialect.of(**options)
    if faults := dialect_faults(dialect, [suffix(source.file) for source in sources if source.file]):
        raise ConfigError(f"--{fault}" for fault in faults)
    return dialect


def _texts(sources: Sequence[TextSource], columns: Sequence[str], dialect: Dialect) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return (texts of every source, notices). Raises ConfigError with the faults of all sources."""
    from trainables.data.sources import read
    from trainables.tables.table_files import read_documents

    texts: list[list[str]] = []
    notices: list[str] = []
    faults: list[str] = []
    for source in sources:
        try:
            if source.task is None:
                read_in, _, of_file = read_documents(source.file or "", columns, dialect)
                notices += [options_said(f"{source.file}: {notice}") for notice in of_file]
                documents = [text for text in read_in if text.strip()]
                faults += [] if documents else [f"{source.file}: there is no text in it"]
                texts.append(documents)
                continue
            rows, of_task = read(source.task)
            faults += [f"tasks.{source.name}.{fault}" for fault in of_task]
            texts += [rows["train"].texts] if "train" in rows else []
            notices += [f"tasks.{source.name}.train: {notice}" for notice in rows["train"].notices] if "train" in rows else []
        except ConfigError as error:
            faults += error.faults if source.task else map(options_said, error.faults)
    if faults:
        raise ConfigError(faults)
    return texts, tuple(notices)


def show(overlap: Overlap) -> str:
    """Format as a table of 80 columns: letters in its head, names in its rows if there is room, and a legend of the letters."""
    count = len(overlap.names)
    decimals, width = (1, 6) if 4 + 6 * count <= WIDTH else (0, 4)
    letters = ascii_uppercase[:count]
    named_rows = 4 + max(map(len, overlap.names)) + width * count <= WIDTH
    rows = [f"{letter}   {name}" if named_rows else letter for letter, name in zip(letters, overlap.names, strict=True)]
    first = max(map(len, rows)) if named_rows else 4
    lines = [*wrap(f"vocabulary overlap, {_title(overlap)}", WIDTH), ""]
    lines.append(" " * first + "".join(f"{letter:>{width}}" for letter in letters))
    for row, values in zip(rows, overlap.percent, strict=True):
        lines.append(f"{row:<{first}}" + "".join(f"{value:>{width}.{decimals}f}" for value in values))
    return "\n".join([*lines, "", *_legend(overlap), *_indented("note: ", _note(overlap)), *_notice_lines(overlap)])


def _legend(overlap: Overlap) -> list[str]:
    rows = zip(ascii_uppercase, overlap.names, overlap.texts, overlap.unigrams, strict=False)
    parts = [(f"{letter}   ", f"{name}: {words:,} unigrams in {texts:,} texts") for letter, name, texts, words in rows]
    return [line for letter, text in parts for line in _indented(letter, wrap(text, WIDTH - 4))]


def _indented(lead: str, lines: Sequence[str]) -> list[str]:
    return [(" " * len(lead) if i else lead) + line for i, line in enumerate(lines)]


def _title(overlap: Overlap) -> str:
    return f"top {overlap.top:,} unigrams: {TITLES[overlap.form].format(top=overlap.top)}"


def small(overlap: Overlap) -> list[str]:
    """Return the sources with fewer unigrams than `top`."""
    return [name for name, words in zip(overlap.names, overlap.unigrams, strict=True) if words < overlap.top]


def _note(overlap: Overlap) -> list[str]:
    notes = []
    if names := small(overlap):
        why = (
            ""
            if overlap.form == "jaccard"
            else f"; as in the paper, shares are of {overlap.top:,} all the same and stay below 100 %"
        )
        notes.append(f"fewer than {overlap.top:,} unigrams in {', '.join(names)}{why}")
    if overlap.spaceless:
        notes.append(f"written without spaces: {', '.join(overlap.spaceless)}; two adjacent characters count as a unigram there")
    return [line for note in notes for line in wrap(note, WIDTH - 6)]


def _notice_lines(overlap: Overlap) -> list[str]:
    return [line for notice in overlap.notices for line in _indented("note: ", wrap(notice, WIDTH - 6, break_long_words=False))]


def plain(overlap: Overlap) -> dict[str, Any]:
    """Return the overlap as plain data."""
    rows = zip(overlap.names, overlap.texts, overlap.unigrams, strict=True)
    sources = [{"name": name, "texts": texts, "unigrams": words} for name, texts, words in rows]
    percent = [list(row) for row in overlap.percent]
    return {
        "form": overlap.form,
        "top": overlap.top,
        "sources": sources,
        "fewer_than_top": small(overlap),
        "character_pairs": list(overlap.spaceless),
        "percent": percent,
        "notices": list(overlap.notices),
    }


# The heat map --------------------------------------------------------------------------------------------------------------------


def write(overlap: Overlap, path: Path) -> None:
    """Write the heat map. Raises ConfigError for a path that is not SVG or cannot be written."""
    if path.suffix.lower() != ".svg":
        raise ConfigError([f"--out {path}: the heat map is SVG; give a name that ends in .svg"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg(overlap), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out {path}: {error.strerror or error}; give a file that can be written"]) from None


def svg(overlap: Overlap) -> str:
    """Return the heat map as a self-contained SVG with its values as text."""
    names = [plain_line(name) for name in overlap.names]
    head = ["Vocabulary overlap", *wrap(_title(overlap), 60), *wrap(" ".join(_note(overlap)), 60)]
    side, beside = CELL * len(names), LETTER * max(map(len, names))

    def draw(axes: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Rectangle

        axes.figure.add_artist(Rectangle((0, 0), 1, 1, transform=axes.figure.transFigure, facecolor="white", zorder=-1))
        axes.figure.suptitle("\n".join(head), x=0.02, horizontalalignment="left", fontsize=9)
        axes.pcolormesh(overlap.percent, cmap=LinearSegmentedColormap.from_list("", COLOURS), vmin=0, vmax=100, edgecolors="white")
        axes.set_ylim(len(names), 0)
        axes.set_xticks(middles, names, rotation=90)
        axes.set_yticks(middles, names)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (i, y), (j, x) in product(enumerate(middles), enumerate(middles)):
            value = overlap.percent[i][j]
            ink = "white" if value > 60 else "#222222"  # the higher contrast of the two
            axes.text(x, y, f"{value:.1f}", horizontalalignment="center", verticalalignment="center", color=ink)

    middles = [place + 0.5 for place in range(len(names))]
    width, height = max(side + beside, 62 * LETTER) + 0.4, side + beside + 0.18 * len(head) + 0.4
    return Figure("overlap", f"{head[0]}: {_title(overlap)}", _description(overlap), "", draw, {}, height=height, width=width).svg


def _description(overlap: Overlap) -> str:
    """Return every pair in words, for readers who cannot see the map."""
    pairs = combinations(range(len(overlap.names)), 2)
    return "; ".join(f"{overlap.names[i]} and {overlap.names[j]} {overlap.percent[i][j]:.1f} %" for i, j in pairs)
