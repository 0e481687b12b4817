"""`study overlap`: how much vocabulary sources of text share, as a table of 80 columns, JSON and a heat map in SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap
from typing import Any

from analysis.figures.svg import figure
from analysis.text.plain import plain as plain_line
from study.survey.tasks import Named, named
from trainables.settings.dialect import Dialect, dialect_faults, options_said
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import suffix

WIDTH = 80
MOST = 18
"""Sources that a table of 80 columns has room for."""
TITLES = {"paper": "|A and B| / {top:,}, in percent", "jaccard": "|A and B| / |A or B|, in percent"}
CELL, LETTER = 0.5, 0.08
"""Heat map, in inches: side of a cell, width of a letter, both at least."""
COLOURS = ("#f7fbff", "#08306b")
"""Of 0 and 100 %."""


@dataclass(frozen=True)
class Overlap:
    """The shared vocabulary of several sources."""

    names: tuple[str, ...]
    texts: tuple[int, ...]
    """Number of texts of each source."""
    unigrams: tuple[int, ...]
    """Number of distinct unigrams of each, stop words left out, before the cut at `top`."""
    form: str
    top: int
    percent: tuple[tuple[float, ...], ...]
    """[sources][sources]"""
    spaceless: tuple[str, ...] = ()
    """Sources most of whose letters are of scripts without spaces: two characters in a row stand for a word there."""
    notices: tuple[str, ...] = ()
    """What a user should know about how the files were read."""


def compare(
    arguments: Sequence[str],
    columns: Sequence[str] = ("text",),
    form: str = "paper",
    top: int = 10_000,
    dialect: Mapping[str, str | None] | None = None,
) -> Overlap:
    """Overlap of what the arguments name: of tasks the training split, of files all texts.

    `dialect` has the fields of a task that say how csv and tsv files are written. Raises ConfigError.
    """
    from study.survey.vocabulary_overlap import matrix, unigrams, vocabulary
    from trainables.data.scripts import mostly_spaceless

    found, _ = named(arguments)
    if not 2 <= len(found) <= MOST:
        raise ConfigError([f"study overlap: {len(found)} sources given; it compares 2 to {MOST}"])
    texts, notices = _texts(found, columns, _dialect_of(found, dialect or {}))
    counts = [unigrams(each) for each in texts]
    percent = matrix([vocabulary(each, top) for each in counts], form, top)
    short = [each.name for each in found]
    names = tuple(each.name if short.count(each.name) == 1 else each.file or each.name for each in found)
    spaceless = tuple(name for name, mine in zip(names, texts, strict=True) if mostly_spaceless(mine))
    about = (tuple(map(len, texts)), tuple(map(len, counts)), form, top, tuple(map(tuple, percent)))
    return Overlap(names, *about, spaceless, notices)


def _dialect_of(found: Sequence[Named], given: Mapping[str, str | None]) -> Dialect:
    """What the options say of the files. Raises ConfigError where that can be true of none of them."""
    dialect = Dialect.of(**given)
    if faults := dialect_faults(dialect, [suffix(each.file) for each in found if each.file]):
        raise ConfigError(f"--{fault}" for fault in faults)
    return dialect


def _texts(found: Sequence[Named], columns: Sequence[str], dialect: Dialect) -> tuple[list[list[str]], tuple[str, ...]]:
    """(texts of each source, notices)."""
    from trainables.data.sources import read
    from trainables.tables.table_files import read_documents

    texts: list[list[str]] = []
    notices: list[str] = []
    faults: list[str] = []
    for each in found:
        try:
            if each.task is None:
                read_in, _, told = read_documents(each.file or "", columns, dialect)
                notices += [options_said(f"{each.file}: {notice}") for notice in told]
                documents = [text for text in read_in if text.strip()]
                faults += [] if documents else [f"{each.file}: there is no text in it"]
                texts.append(documents)
                continue
            rows, more = read(each.task)
            faults += [f"tasks.{each.name}.{fault}" for fault in more]
            texts += [rows["train"].texts] if "train" in rows else []
            notices += [f"tasks.{each.name}.train: {notice}" for notice in rows["train"].notices] if "train" in rows else []
        except ConfigError as error:
            faults += error.faults if each.task else map(options_said, error.faults)
    if faults:
        raise ConfigError(faults)
    return texts, tuple(notices)


def show(found: Overlap) -> str:
    """A table of 80 columns: letters in its head, names in its rows where there is room, and what the letters stand for."""
    count = len(found.names)
    decimals, width = (1, 6) if 4 + 6 * count <= WIDTH else (0, 4)
    letters = ascii_uppercase[:count]
    named_rows = 4 + max(map(len, found.names)) + width * count <= WIDTH
    rows = [f"{letter}   {name}" if named_rows else letter for letter, name in zip(letters, found.names, strict=True)]
    first = max(map(len, rows)) if named_rows else 4
    lines = [*wrap(f"vocabulary overlap, {_title(found)}", WIDTH), ""]
    lines.append(" " * first + "".join(f"{letter:>{width}}" for letter in letters))
    for row, values in zip(rows, found.percent, strict=True):
        lines.append(f"{row:<{first}}" + "".join(f"{value:>{width}.{decimals}f}" for value in values))
    return "\n".join([*lines, "", *_legend(found), *_indented("note: ", _note(found)), *_told(found)])


def _legend(found: Overlap) -> list[str]:
    rows = zip(ascii_uppercase, found.names, found.texts, found.unigrams, strict=False)
    parts = [(f"{letter}   ", f"{name}: {words:,} unigrams in {texts:,} texts") for letter, name, texts, words in rows]
    return [line for letter, said in parts for line in _indented(letter, wrap(said, WIDTH - 4))]


def _indented(lead: str, lines: Sequence[str]) -> list[str]:
    return [(" " * len(lead) if i else lead) + line for i, line in enumerate(lines)]


def _title(found: Overlap) -> str:
    return f"top {found.top:,} unigrams: {TITLES[found.form].format(top=found.top)}"


def small(found: Overlap) -> list[str]:
    """Sources with fewer unigrams than are compared."""
    return [name for name, words in zip(found.names, found.unigrams, strict=True) if words < found.top]


def _note(found: Overlap) -> list[str]:
    said = []
    if names := small(found):
        why = "" if found.form == "jaccard" else f"; divided by {found.top:,} all the same, as in the paper, they stay below 100 %"
        said.append(f"fewer than {found.top:,} unigrams in {', '.join(names)}{why}")
    if found.spaceless:
        said.append(f"written without spaces: {', '.join(found.spaceless)}; two characters in a row count as a unigram there")
    return [line for each in said for line in wrap(each, WIDTH - 6)]


def _told(found: Overlap) -> list[str]:
    return [line for notice in found.notices for line in _indented("note: ", wrap(notice, WIDTH - 6, break_long_words=False))]


def plain(found: Overlap) -> dict[str, Any]:
    """The same as plain data."""
    rows = zip(found.names, found.texts, found.unigrams, strict=True)
    sources = [{"name": name, "texts": texts, "unigrams": words} for name, texts, words in rows]
    percent = [list(row) for row in found.percent]
    return {
        "form": found.form,
        "top": found.top,
        "sources": sources,
        "fewer_than_top": small(found),
        "character_pairs": list(found.spaceless),
        "percent": percent,
        "notices": list(found.notices),
    }


# The heat map --------------------------------------------------------------------------------------------------------------------


def write(found: Overlap, path: Path) -> None:
    """Write the heat map. Raises ConfigError where that cannot be."""
    if path.suffix.lower() != ".svg":
        raise ConfigError([f"--out {path}: the heat map is SVG; give a name that ends in .svg"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out {path}: {error.strerror or error}; give a file that can be written"]) from None


def svg(found: Overlap) -> str:
    """Heat map with its values as text; nothing outside the file is needed."""
    names = [plain_line(name) for name in found.names]
    head = ["Vocabulary overlap", *wrap(_title(found), 60), *wrap(" ".join(_note(found)), 60)]
    side, beside = CELL * len(names), LETTER * max(map(len, names))

    def draw(axes: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Rectangle

        axes.figure.add_artist(Rectangle((0, 0), 1, 1, transform=axes.figure.transFigure, facecolor="white", zorder=-1))
        axes.figure.suptitle("\n".join(head), x=0.02, horizontalalignment="left", fontsize=9)
        axes.pcolormesh(found.percent, cmap=LinearSegmentedColormap.from_list("", COLOURS), vmin=0, vmax=100, edgecolors="white")
        axes.set_ylim(len(names), 0)
        axes.set_xticks(middles, names, rotation=90)
        axes.set_yticks(middles, names)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (i, y), (j, x) in product(enumerate(middles), enumerate(middles)):
            value = found.percent[i][j]
            ink = "white" if value > 60 else "#222222"  # the higher contrast of the two
            axes.text(x, y, f"{value:.1f}", horizontalalignment="center", verticalalignment="center", color=ink)

    middles = [place + 0.5 for place in range(len(names))]
    width, height = max(side + beside, 62 * LETTER) + 0.4, side + beside + 0.18 * len(head) + 0.4
    return figure("overlap", f"{head[0]}: {_title(found)}", _spoken(found), "", draw, {}, height=height, width=width).svg


def _spoken(found: Overlap) -> str:
    """Every pair in words, for who does not see the map."""
    pairs = combinations(range(len(found.names)), 2)
    return "; ".join(f"{found.names[i]} and {found.names[j]} {found.percent[i][j]:.1f} %" for i, j in pairs)
