"""Format LaTeX: escape any text so that pdflatex accepts it, and write booktabs tables that fit the width of the page."""

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
"""{combining mark: its command in LaTeX's default encoding}"""
CODE_POINT = r'\providecommand{\codepoint}[1]{\ifdefined\Umathcode\char"#1\relax\else\texttt{U+#1}\fi}'
"""Definition for tables with characters of other scripts: LuaLaTeX and XeLaTeX print them, pdfLaTeX prints their code points."""


def tex(text: str) -> str:
    """Escape a text for LaTeX, in ASCII only; long words get places where a line may break."""
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
"""Characters in a line of small type; a wider table is split between columns."""
ROWS = 40
"""Rows on a page; a longer table continues in another one."""
NOTES = 2500
"""Most characters of caption and notes that fit on a page with a table."""
LABEL, HEAD = 28, 40
"""Characters from which on a label is wrapped, and to which a head is cut."""


@dataclass(frozen=True)
class TexColumn:
    """One or several columns of a table under one head."""

    head: str
    """Plain text."""
    cells: Sequence[Sequence[str]]
    """LaTeX of the cells, by row and column."""
    under: tuple[str, ...] = ("",)
    """Second line of the head, one text for each column."""
    align: str = "r"

    @property
    def width(self) -> int:
        """Approximate width in characters."""
        columns = zip(self.under, *self.cells, strict=True)
        inner = sum(2 + max(map(_length, column)) for column in columns)
        return max(inner, 2 + len(plain(self.head, HEAD)))


def _length(cell: str) -> int:
    """Approximate number of printed characters of a LaTeX text."""
    return len(re.sub(r"\\codepoint\{\w+\}", "mmm", re.sub(r"\\[a-z]+(\{\})?|[{}$\\^]", "", cell)))


def table(
    labels: Sequence[str],
    columns: Sequence[TexColumn],
    caption: Sequence[str],
    notes: Sequence[str] = (),
    comments: Sequence[str] = (),
    corner: str = "",
    strong: Collection[int] = (),
) -> str:
    """Format a table for `\\input`; it is split if it is wider or longer than a page, with caption and notes below.

    Labels, caption, notes and comments are plain text. `strong` are the rows with bold labels.
    """
    parts = _parts(labels, columns)
    step = max(5, ROWS // max(1, len(parts)))
    starts = range(0, max(1, len(labels)), step)
    lines = []
    for start in starts:
        rows = slice(start, start + step)
        bold = [place in strong for place in range(len(labels))][rows]
        tabulars = [_tabular(labels[rows], bold, part, rows, corner) for part in parts]
        words = " ".join(map(tex, caption)) if start == 0 else "(continued)"
        lines += [
            r"\begin{table}",
            r"  \centering\sloppy",
            ("\n" + r"  \par\medskip" + "\n").join(tabulars),
            rf"  \caption{{{words}}}" if start == 0 else rf"  \addtocounter{{table}}{{-1}}\caption{{{words}}}",
        ]
        lines.append(r"\end{table}")
    if notes:  # inside the last table if both fit on one page
        below = rf"  {{\smallskip\footnotesize\raggedright {' '.join(map(tex, notes))}\par}}"
        lines.insert(len(lines) - (sum(map(len, (*caption, *notes))) < NOTES), below)
    body = "\n".join(lines)
    needed = [CODE_POINT] if r"\codepoint" in body else []
    return "\n".join(
        ["% needs \\usepackage{booktabs,graphicx}", *(plain(f"% {comment}") for comment in comments), *needed, body, ""]
    )


def _parts(labels: Sequence[str], columns: Sequence[TexColumn]) -> list[list[TexColumn]]:
    """Split the columns into groups that fit the width of the page."""
    room = ROOM - min(LABEL, max(map(len, labels), default=0))
    parts: list[list[TexColumn]] = [[]]
    left = room
    for column in columns:
        if parts[-1] and column.width > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= column.width
    return parts


def _tabular(labels: Sequence[str], bold: Sequence[bool], columns: Sequence[TexColumn], rows: slice, corner: str) -> str:
    """Format one tabular, scaled down if it is wider than the line."""
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


def _head(column: TexColumn) -> str:
    name = tex(plain(column.head, HEAD))
    return rf"\multicolumn{{{len(column.under)}}}{{c}}{{{name}}}" if len(column.under) > 1 else name
