"""Turn a drawing function into a figure of matplotlib, and into SVG for a file and for the page.

The SVG has reproducible bytes, ids that are unique on a page, and no styles beyond the figure.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from analysis.text.plain import plain

if TYPE_CHECKING:
    from analysis.figures.canvas import Canvas

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
COLOURS = {
    "fg": "#1f2430",
    "muted": "#566070",
    "grid": "#dfe3e8",
    "accent": "#0a5fb4",
    "warm": "#b2440c",
    "green": "#17754a",
    "violet": "#7446b0",
}
"""{CSS variable of the page: its colour in the light scheme}; no figure uses these colours for anything else."""
WIDTH_IN, HEIGHT_IN = 4.5, 3.05
RC = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": COLOURS["fg"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.2,
    "savefig.transparent": True,
}


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure: what it shows in words, and how it is drawn. Nothing is drawn before it is asked for."""

    name: str
    """Also the name of its file."""
    title: str
    description: str
    """For screen readers."""
    caption: str
    draw: Callable[[Any], None] = field(repr=False)
    """Draws on axes of matplotlib."""
    tips: Mapping[str, Sequence[str]] = field(repr=False)
    """{group id in the drawing: tool tips of its marks}; `draw` may fill it."""
    legend: Sequence[tuple[str, Any]] = field(default=(), repr=False)
    """(text, line or mark of matplotlib)"""
    height: float = HEIGHT_IN
    width: float = WIDTH_IN

    def canvas(self) -> Canvas:
        """Draw it as a figure of matplotlib, which pyplot does not know."""
        with _style(self.name):
            return self._drawn()

    @cached_property
    def svg(self) -> str:
        """SVG for a file."""
        return f'<?xml version="1.0" encoding="utf-8"?>\n{self._svg}\n'

    @cached_property
    def inline(self) -> str:
        """SVG to embed in the page, in its colours and font."""
        text = self._svg
        for name, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        return re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)

    @cached_property
    def _svg(self) -> str:
        out = io.StringIO()
        with _style(self.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters that matplotlib's font lacks: the reader's font has them
            self._drawn().savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return _tidy(out.getvalue(), self.name, self.title, self.description, self.tips)

    def _drawn(self) -> Canvas:
        from analysis.figures.canvas import Canvas

        canvas = Canvas(figsize=(self.width, self.height), layout="constrained")
        self.draw(canvas.add_subplot())
        if self.legend:
            labels, handles = zip(*self.legend, strict=True)
            look = {"columnspacing": 1.2, "handletextpad": 0.4, "handlelength": 1.8, "borderpad": 0}
            canvas.legend(handles, labels, loc="outside upper left", ncols=3, **look)
        return canvas


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Within the block matplotlib has our style, and makes the same ids in SVG for the same figure."""
    import matplotlib

    with matplotlib.rc_context(RC | {"svg.hashsalt": name}):
        yield


def _tidy(svg: str, name: str, title: str, description: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Make ids unique to the figure, add title and tool tips, remove styles that would affect other figures."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for gid, texts in tips.items():
        _add_tips(root, gid, texts)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{XLINK}}}href":
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "style": "stroke-linejoin: round"}
    for position_, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = plain(text)
        root.insert(position_, element)
    return ElementTree.tostring(root, encoding="unicode")


def _add_tips(root: ElementTree.Element, gid: str, texts: Sequence[str]) -> None:
    group = next((element for element in root.iter() if element.get("id") == gid), None)
    if group is None:
        return
    marks = [e for e in group.iter() if e.tag == f"{{{SVG}}}use"] or [e for e in group if e.tag == f"{{{SVG}}}path"]
    for mark, text in zip(marks, texts, strict=False):
        ElementTree.SubElement(mark, f"{{{SVG}}}title").text = plain(text, 300)
