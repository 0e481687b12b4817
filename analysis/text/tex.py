"""LaTeX: texts escaped so that pdflatex sets any of them, and tables with booktabs that are no wider than the page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from analysis.text.plain import plain

CHARS = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{MINUS SIGN}": "$-$",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "†": r"$^\dagger$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "µ": r"$\mu$",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "\0": r"\allowbreak{}",
}
GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega"
CHARS |= {char: f"$\\{name}$" for char, name in zip("αβγδεζηθικλμνξπρστυφχψω", GREEK.split(), strict=True)}
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c",
}  # fmt: skip
"""Combining marks that LaTeX's own encoding has a command for."""
CODE_POINT = r'\providecommand{\codepoint}[1]{\ifdefined\Umathcode\char"#1\relax\else\texttt{U+#1}\fi}'
"""What stands in a table that has characters of other scripts: set by LuaLaTeX and XeLaTeX, named by pdfLaTeX, which has none."""


def tex(text: str) -> str:
    """A text as LaTeX, in ASCII alone. Long words may be broken."""
    line = re.sub(r"\S{25,}", lambda word: "\0".join(re.findall(".{1,12}", word[0])), plain(text))
    return "".join(map(_char, unicodedata.normalize("NFC", line)))


def _char(char: str) -> str:
    if char in CHARS:
        return CHARS[char]
    if char.isascii():
        return char
    base, marks = (parts := unicodedata.normalize("NFD", char))[0], parts[1:]
    if marks in ACCENTS and base.isascii() and base.isalpha():
        return rf"\{ACCENTS[marks]}{{{base}}}"
    return rf"\codepoint{{{ord(char):04X}}}"


# Tables --------------------------------------------------------------------------------------------------------------------------

ROOM = 105
"""Characters of a line of small type; what is wider is broken between columns."""
ROWS = 40
"""Lines of a page; what is longer goes on in another table."""
NOTES = 2500
"""Characters of caption and notes that leave room for a table on their page."""
LABEL, HEAD = 28, 40
"""Characters of a label before it is broken, and of a head before it is cut."""


@dataclass(frozen=True)
class Column:
    """A column of a table, or several under one head."""

    head: str
    """As plain text."""
    cells: Sequence[Sequence[str]]
    """Of every row, as LaTeX."""
    under: tuple[str, ...] = ("",)
    """Heads below the head, one for each column that it stands over."""
    align: str = "r"

    @property
    def width(self) -> int:
        """About how many characters wide it is."""
        columns = zip(self.under, *self.cells, strict=True)
        inner = sum(2 + max(map(_length, column)) for column in columns)
        return max(inner, 2 + len(plain(self.head, HEAD)))


def _length(cell: str) -> int:
    """Characters of a LaTeX text as set, about."""
    return len(re.sub(r"\\codepoint\{\w+\}", "mmm", re.sub(r"\\[a-z]+(\{\})?|[{}$\\^]", "", cell)))


def table(
    labels: Sequence[str],
    columns: Sequence[Column],
    caption: Sequence[str],
    notes: Sequence[str] = (),
    comments: Sequence[str] = (),
    corner: str = "",
    strong: Collection[int] = (),
) -> str:
    """A table for `\\input`: rows by label, broken where it is wider or longer than a page, caption and notes below it.

    Labels, caption, notes and comments are plain text. `strong` are the rows with bold labels.
    """
    parts = _parts(labels, columns)
    step = max(5, ROWS // max(1, len(parts)))
    starts = range(0, max(1, len(labels)), step)
    made = []
    for start in starts:
        rows = slice(start, start + step)
        bold = [place in strong for place in range(len(labels))][rows]
        tabulars = [_tabular(labels[rows], bold, part, rows, corner) for part in parts]
        words = " ".join(map(tex, caption)) if start == 0 else "(continued)"
        made += [
            r"\begin{table}",
            r"  \centering\sloppy",
            ("\n" + r"  \par\medskip" + "\n").join(tabulars),
            rf"  \caption{{{words}}}" if start == 0 else rf"  \addtocounter{{table}}{{-1}}\caption{{{words}}}",
        ]
        made.append(r"\end{table}")
    if notes:  # within the last table, where they leave it on one page
        below = rf"  {{\smallskip\footnotesize\raggedright {' '.join(map(tex, notes))}\par}}"
        made.insert(len(made) - (sum(map(len, (*caption, *notes))) < NOTES), below)
    body = "\n".join(made)
    needed = [CODE_POINT] if r"\codepoint" in body else []
    return "\n".join(["% needs \\usepackage{booktabs,graphicx}", *(plain(f"% {each}") for each in comments), *needed, body, ""])


def _parts(labels: Sequence[str], columns: Sequence[Column]) -> list[list[Column]]:
    """Columns in groups that fit."""
    room = ROOM - min(LABEL, max(map(len, labels), default=0))
    parts: list[list[Column]] = [[]]
    left = room
    for column in columns:
        if parts[-1] and column.width > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= column.width
    return parts


def _tabular(labels: Sequence[str], bold: Sequence[bool], columns: Sequence[Column], rows: slice, corner: str) -> str:
    """One tabular, made smaller where it is wider than the line."""
    names = [rf"\textbf{{{tex(label)}}}" if strong else tex(label) for label, strong in zip(labels, bold, strict=True)]
    long = max(map(len, labels), default=0) > LABEL
    spec = ("p{12em}" if long else "l") + "".join(column.align * len(column.under) for column in columns)
    several = any(len(column.under) > 1 for column in columns)
    head = " & ".join([tex(corner), *(_head(column) for column in columns)]) + r" \\"
    below = []
    if several:
        place, rules = 2, ""
        for column in columns:
            rules += rf"\cmidrule(lr){{{place}-{place + len(column.under) - 1}}}"
            place += len(column.under)
        below = [rules, " & ".join(["", *(tex(name) for column in columns for name in column.under)]) + r" \\"]
    cells = list(zip(*(column.cells[rows] for column in columns), strict=True)) if columns else [()] * len(labels)
    lines = [
        " & ".join([(r"\raggedright " if long else "") + name, *(text for cell in row for text in cell)]) + r" \\"
        for name, row in zip(names, cells, strict=True)
    ]
    return "\n".join(
        [
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{spec}}}",
            r"    \toprule",
            *(f"    {line}" for line in (head, *below)),
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
        ]
    )


def _head(column: Column) -> str:
    name = tex(plain(column.head, HEAD))
    return rf"\multicolumn{{{len(column.under)}}}{{c}}{{{name}}}" if len(column.under) > 1 else name
