"""What lies behind a score: each class, what is taken for what, errors by length, calibration. Tables, figures, csv.

Of a few settings on a task beside each other for a page (`Detail`), of all of them for the csv files (`Told`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from analysis.figures.study_figures import SERIES, line
from analysis.figures.svg import COLOURS, Figure, figure
from analysis.records.predictions import Array
from analysis.results.sides import Cut, Side
from analysis.stats import labels, lengths
from analysis.stats.calibration import Calibration
from analysis.stats.inference import Estimate
from analysis.stats.labels import Confusion, Label
from analysis.text import numbers
from analysis.text.numbers import DASH, number, signed, spread
from analysis.text.plain_data import csv_text

LABELS = ("label", "texts", "given", "threshold", "precision_percent", "recall_percent", "f1_percent", "f1_sd_percent",
          "bag_of_words_f1_percent")  # fmt: skip
CONFUSIONS = ("label", "given", "texts", "share_percent")
LENGTHS = ("least_pieces", "most_pieces", "texts", "max_length", "truncation", "longer_than_max_length_percent",
           "error_percent", "interval_low_percent", "interval_high_percent")  # fmt: skip
CALIBRATION = ("texts", "counted", "ece_percent", "ece_sd_percent", "ece_equal_mass_percent", "ece_by_chance_percent",
               "brier", "log_loss", "mean_confidence_percent", "right_percent")  # fmt: skip
FACTS = (
    "ECE: mean distance between confidence and share of right ones in 15 bins of confidence (Guo et al. 2017).",
    "Confidence: probability of the class that a text is given; with several labels per text each decision on a label counts.",
    "By chance: what it would be on so many texts if the probabilities were perfect. Mean over seeds ± standard deviation.",
    "Brier: squared distance, summed over classes, 0 to 2; where a text may have several labels, of a decision, 0 to 1.",
)
"""What SCORES mean."""
OF_SEVERAL = " Mean over seeds ± standard deviation."
SCORES = ("seeds", "ECE %", "by chance %", "ECE, equal mass %", "Brier", "log loss", "mean confidence %", "right %")


@dataclass(frozen=True)
class Length:
    """Error of a setting on the texts of some lengths."""

    low: int
    high: int
    texts: int
    longer: float | None
    """Share of them that are longer than what it reads at once, percent; None where that is not known."""
    estimate: Estimate

    @property
    def name(self) -> str:
        """`12–30`, in pieces."""
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval over seeds and texts."""
        return lengths.interval(self.estimate, 0.0)


@dataclass(frozen=True)
class Told:
    """All that is said of one setting, without its predictions: small enough to be kept for each of hundreds."""

    label: str
    several: bool
    labels: Sequence[Label]
    confusions: Sequence[Confusion]
    lengths: Sequence[Length]
    calibration: Calibration | None
    cut: Cut | None
    seeds: int
    problems: Sequence[str]

    @property
    def scores(self) -> list[tuple[str, float | None]]:
        """(text, number) of its calibration in the columns SCORES; dashes where probabilities are not kept."""
        found = self.calibration
        if found is None:
            return [(DASH, None)] * len(SCORES)
        digits = zip((found.by_chance, found.ece_equal_mass, found.brier, found.log_loss, found.confidence, found.right),
                     (2, 2, 3, 3, 1, 1), strict=True)  # fmt: skip
        rest = [(number(numbers.mean(values), places), numbers.mean(values)) for values, places in digits]
        return [(str(self.seeds), self.seeds), (spread(found.ece), numbers.mean(found.ece)), *rest]


def facts(found: Iterable[Told]) -> tuple[str, ...]:
    """What SCORES mean; where all are of one seed, which has no spread, none is spoken of."""
    several = any("±" in text for each in found for text, _ in each.scores)
    return FACTS if several else tuple(fact.removesuffix(OF_SEVERAL) for fact in FACTS)


def told(side: Side, pieces: Array | None = None) -> Told:
    """Of one side. `pieces` are the lengths of the same texts that bins are made of, its own if it has any by default."""
    pieces = side.pieces if pieces is None else pieces
    own = pieces if side.pieces is None else side.pieces  # another encoder counts otherwise
    found = []
    for part in lengths.bins(pieces) if side.seeds and pieces is not None else ():
        longer = None if side.cut is None or own is None else 100 * float((own[part.texts] > side.cut.max_length).mean())
        found.append(Length(part.low, part.high, int(part.texts.sum()), longer, lengths.error(side.seeds, part)))
    several = bool(side.seeds) and side.seeds[0].several
    return Told(
        *(side.label, several, side.labels, side.confusions, found, side.calibration, side.cut, len(side.seeds), side.problems)
    )


@dataclass(frozen=True)
class Detail:
    """One setting on a task looked at closely, with others beside it."""

    name: str
    """Of the task."""
    key: str
    """What makes names of its figures and ids its own."""
    sides: Sequence[Told]
    """The setting first."""
    gaps: Sequence[Sequence[Estimate]]
    """Of each bin of lengths: the first's error less that of each other."""
    f1: Sequence[tuple[str, Mapping[int, float | None]]]
    """(label, {place of a class: mean F1}) of the others, but for the bag of words."""
    figures: Mapping[str, Figure]

    @property
    def first(self) -> Told:
        """The setting that is looked at."""
        return self.sides[0]

    @property
    def labels(self) -> list[Label]:
        """The most frequent."""
        return labels.shown(self.first.labels)

    @property
    def left_out(self) -> str:
        """What the page says of classes that it has no room for."""
        shown, every = len(self.labels), len(self.first.labels)
        return f"The {shown} most frequent of {every}; labels.csv has all." if shown < every else ""

    @property
    def confusions(self) -> Sequence[Confusion]:
        """The largest."""
        return self.first.confusions[: labels.MOST]

    @property
    def problems(self) -> list[str]:
        """What could not be used."""
        return list(dict.fromkeys(f"{side.label}: {text}" for side in self.sides for text in side.problems))

    @property
    def length_rows(self) -> list[tuple[str, str, list[str], list[str], list[str]]]:
        """(pieces, texts, share beyond each cut, error of each side, gap to each other)."""
        made = []
        for place, part in enumerate(self.first.lengths):
            there = [side.lengths[place] for side in self.sides if side.lengths]
            beyond = [number(side.lengths[place].longer, 0) for side in self._cutting]
            errors = [_with(number(each.estimate.value, 1), each.interval) for each in there]
            gaps = [_with(signed(each[place].value), lengths.interval(each[place], -100.0), signed) for each in self.gaps]
            made.append((part.name, f"{part.texts:,}", beyond, errors, gaps))
        return made

    @property
    def length_heads(self) -> tuple[list[str], list[str], list[str]]:
        """Heads of the columns of `length_rows`."""
        there = [side.label for side in self.sides if side.lengths]
        cuts = [f"longer than {side.cut.max_length} %" for side in self._cutting if side.cut]
        return cuts, [f"{label} error %" for label in there], [f"{there[0]} less {label}, points" for label in there[1:]]

    @property
    def _cutting(self) -> list[Told]:
        """One side for each length that is read at once."""
        found = {side.cut.max_length: side for side in reversed(self.sides) if side.cut and side.lengths}
        return list(reversed(found.values()))

    @property
    def length_facts(self) -> list[str]:
        """What is to know of the table of lengths."""
        if not self.first.lengths:
            return []
        said = ["Length in pieces before any cut, special tokens included; bins are quantiles, with about as many texts each."]
        said += [f"{side.label} {side.cut.name} pieces." for side in self.sides if side.cut]
        said.append("Error: share of texts not given just what they have, whatever the metric.")
        said.append("In brackets 95 % over seeds and texts, of each bin alone; none for one seed, or where nothing varies.")
        return said


def detail(name: str, key: str, sides: Sequence[Side], bag: Side | None = None) -> Detail | None:
    """Of a setting, and others on the same texts beside it, at the end the bag of words; None without predictions of the first."""
    if not sides or not sides[0].seeds:
        return None
    same = [side for side in (*sides, *([bag] if bag else [])) if side.same_texts(sides[0])]
    pieces = next((side.pieces for side in same if side.pieces is not None), None)
    parts = [] if pieces is None else lengths.bins(pieces)
    found = [told(side, pieces) for side in same]
    gaps = [[lengths.gap(same[0].seeds, other.seeds, part) for part in parts] for other in same[1:]]
    f1 = [
        (each.label, {one.place: numbers.mean(one.f1) for one in each.labels})
        for side, each in zip(same[1:], found[1:], strict=True)
        if side is not bag
    ]
    drawn = {"reliability": reliability(found, key), "lengths": by_length(found, key)}
    return Detail(name, key, found, gaps, f1, {name: each for name, each in drawn.items() if each is not None})


# Figures -------------------------------------------------------------------------------------------------------------------------


def reliability(sides: Sequence[Told], key: str) -> Figure | None:
    """Share that is right against confidence, of all seeds together."""
    there = [(place, side, side.calibration) for place, side in enumerate(sides) if side.calibration]
    if not there:
        return None
    what = "decisions" if there[0][2].several else "texts"
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=COLOURS["muted"], linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        for place, _, found in there:
            colour, marker, style = SERIES[place % len(SERIES)]
            x, y = [100 * each.confidence for each in found.bins], [100 * each.right for each in found.bins]
            total = sum(each.texts for each in found.bins)
            sizes = [8 + 90 * each.texts / total for each in found.bins]
            axes.plot(x, y, color=COLOURS[colour], linestyle=style, linewidth=1.2)
            axes.scatter(
                x, y, s=sizes, marker=marker, color=COLOURS[colour], linewidths=0, alpha=0.85, zorder=3, gid=f"bins-{place}"
            )
            tips[f"bins-{place}"] = [
                f"{sides[place].label}: {each.texts:,.1f} {what} with {100 * each.low:.0f} to {100 * each.high:.0f} %,"
                f" on average {100 * each.confidence:.1f} %; {100 * each.right:.1f} % right"
                for each in found.bins
            ]
        axes.set_xlim(0, 102)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("probability of a label, %" if what == "decisions" else "confidence, %")
        axes.set_ylabel("have it, %" if what == "decisions" else "right, %")

    legend = [(side.label[:24], line(*_look(place))) for place, side, _ in there]
    said = "; ".join(f"{side.label}: expected calibration error {number(numbers.mean(found.ece))} %" for _, side, found in there)
    caption = (
        f"Reliability: share of {what} that are right against their confidence, over all seeds; on the dashed line the two are"
    )
    caption += f" equal. The larger the mark, the more {what}."
    return figure(f"reliability-{key}", "Reliability diagram", said, caption, draw, tips, legend)


def by_length(sides: Sequence[Told], key: str) -> Figure | None:
    """Error against length, with intervals, and where texts are cut."""
    there = [(place, side) for place, side in enumerate(sides) if len(side.lengths) > 1]
    if not there:
        return None
    parts = there[0][1].lengths
    names = [each.name for each in parts]
    cuts = sorted({side.cut.max_length for _, side in there if side.cut and parts[0].low <= side.cut.max_length < parts[-1].high})
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        for length in cuts:
            axes.axvline(_place(length, parts), color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        for turn, (place, side) in enumerate(there):
            colour, marker, style = SERIES[place % len(SERIES)]
            x = [at + 0.12 * (turn - (len(there) - 1) / 2) for at in range(len(parts))]
            y = [each.estimate.value for each in side.lengths]
            for at, each in zip(x, side.lengths, strict=True):
                if each.interval:
                    axes.plot([at, at], each.interval, color=COLOURS[colour], linewidth=2.5, alpha=0.35, solid_capstyle="butt")
            axes.plot(x, y, color=COLOURS[colour], linestyle=style, linewidth=1.2)
            axes.scatter(x, y, s=24, marker=marker, color=COLOURS[colour], linewidths=0, zorder=3, gid=f"lengths-{place}")
            tips[f"lengths-{place}"] = [
                f"{side.label}: {each.estimate.value:.2f} % of {each.texts:,} texts of {name} pieces"
                for name, each in zip(names, side.lengths, strict=True)
            ]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("pieces of a text before any cut")
        axes.set_ylabel("error, %")

    legend = [(side.label[:24], line(*_look(place))) for place, side in there]
    said = "; ".join(
        f"{side.label}: " + ", ".join(f"{n} pieces {e.estimate.value:.1f} %" for n, e in zip(names, side.lengths, strict=True))
        for _, side in there
    )
    caption = "Errors by length: mean over seeds, with the 95 % interval over seeds and texts (bar)."
    caption += f" Dashed: {' and '.join(map(str, cuts))} pieces, as many as are read at once." if cuts else ""
    return figure(f"lengths-{key}", "Errors by length", said, caption, draw, tips, legend)


def _look(place: int) -> tuple[str, float, str, str]:
    colour, marker, style = SERIES[place % len(SERIES)]
    return colour, 1.2, marker, style


def _place(length: int, parts: Sequence[Length]) -> float:
    """Where on an axis of bins texts get longer than that."""
    for at, part in enumerate(parts):
        if length < part.high:
            return at - 0.5 + max(0.0, (length - part.low + 0.5) / (part.high - part.low + 1))
        if length == part.high:
            return at + 0.5
    return len(parts) - 0.5


def _with(value: str, bounds: tuple[float, float] | None, form: Any = number) -> str:
    """`12.3 (10.1–14.6)`; without bounds the number alone."""
    return value if bounds is None else f"{value} ({form(bounds[0], 1)} to {form(bounds[1], 1)})"


# CSV -----------------------------------------------------------------------------------------------------------------------------

About = Mapping[str, Any]
"""What says in a row of a csv file which setting it is."""


def csv_files(columns: Sequence[str], found: Callable[[], Sequence[tuple[About, Told]]]) -> dict[str, Callable[[], str]]:
    """{name of a file: what makes it}: one row a setting and class, pair of classes, bin of lengths, and setting."""
    makers = {"labels": (LABELS, _labels), "confusions": (CONFUSIONS, _confusions), "lengths": (LENGTHS, _lengths)}
    makers |= {"calibration": (CALIBRATION, _calibration)}

    def text(own: Sequence[str], rows: Callable[[Told], list[dict[str, Any]]]) -> str:
        return csv_text((*columns, *own), [{**about, **row} for about, each in found() for row in rows(each)])

    return {f"{name}.csv": partial(text, *maker) for name, maker in makers.items()}


def _labels(found: Told) -> list[dict[str, Any]]:
    return [
        {
            "label": each.name,
            "texts": each.texts,
            "given": each.given,
            "threshold": each.threshold,
            "precision_percent": each.precision,
            "recall_percent": each.recall,
            "f1_percent": numbers.mean(each.f1),
            "f1_sd_percent": numbers.sd(each.f1),
            "bag_of_words_f1_percent": each.baseline,
        }
        for each in found.labels
    ]


def _confusions(found: Told) -> list[dict[str, Any]]:
    return [
        {"label": each.name, "given": each.instead, "texts": each.texts, "share_percent": each.share} for each in found.confusions
    ]


def _lengths(found: Told) -> list[dict[str, Any]]:
    return [
        {
            "least_pieces": each.low,
            "most_pieces": each.high,
            "texts": each.texts,
            "max_length": found.cut.max_length if found.cut else None,
            "truncation": found.cut.truncation if found.cut else None,
            "longer_than_max_length_percent": each.longer,
            "error_percent": each.estimate.value,
            "interval_low_percent": each.interval[0] if each.interval else None,
            "interval_high_percent": each.interval[1] if each.interval else None,
        }
        for each in found.lengths
    ]


def _calibration(found: Told) -> list[dict[str, Any]]:
    each = found.calibration
    if each is None:
        return []
    return [
        {
            "texts": each.texts,
            "counted": "decisions" if each.several else "texts",
            "ece_percent": numbers.mean(each.ece),
            "ece_sd_percent": numbers.sd(each.ece),
            "ece_equal_mass_percent": numbers.mean(each.ece_equal_mass),
            "ece_by_chance_percent": numbers.mean(each.by_chance),
            "brier": numbers.mean(each.brier),
            "log_loss": numbers.mean(each.log_loss),
            "mean_confidence_percent": numbers.mean(each.confidence),
            "right_percent": numbers.mean(each.right),
        }
    ]
