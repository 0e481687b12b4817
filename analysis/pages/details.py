"""Details behind a score: scores by class, confusions, errors by length, calibration; as tables, figures and csv.

A page compares a few settings on a task (`ComparedDetails`); the csv files hold all settings (`Details`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from analysis.figures.study_figures import SERIES, line
from analysis.figures.svg import COLOURS, Figure
from analysis.records.predictions import Array
from analysis.results.sides import Side, Truncation
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
               "brier", "log_loss", "mean_confidence_percent", "right_percent", "temperature", "scaled_ece_percent",
               "scaled_log_loss")  # fmt: skip
FACTS = (
    "ECE: mean distance between confidence and share of right predictions in 15 bins of confidence (Guo et al. 2017).",
    "Confidence: probability of the predicted class; with several labels per text every decision on a label counts.",
    "By chance: expected ECE of perfect probabilities on as many texts. Mean over seeds ± standard deviation.",
    "Brier: squared distance, summed over classes, 0 to 2; with several labels per text of a decision, 0 to 1.",
    "Scaled: with logits divided by the temperature, which is fitted on validation (Guo et al. 2017). Above 1: overconfident.",
)
"""Sentences that explain SCORES."""
LEAST, MOST = 0.1, 10.0
"""Range in which temperatures are fitted (trainables/scores/temperature.py)."""
OF_SEVERAL = " Mean over seeds ± standard deviation."
SCORES = ("seeds", "ECE %", "by chance %", "ECE, equal mass %", "Brier", "log loss", "mean confidence %", "right %", "temperature",
          "scaled ECE %", "scaled log loss")  # fmt: skip


@dataclass(frozen=True)
class Length:
    """Error of a setting on the texts in a bin of lengths."""

    low: int
    high: int
    texts: int
    longer: float | None
    """Share of them that are longer than the setting reads at once, percent; None if unknown."""
    estimate: Estimate

    @property
    def name(self) -> str:
        """Range of lengths in pieces: `12–30`."""
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval over seeds and texts."""
        return lengths.interval(self.estimate, 0.0)


@dataclass(frozen=True)
class Details:
    """The details of one setting without its predictions: small enough to keep hundreds in memory."""

    label: str
    several: bool
    labels: Sequence[Label]
    confusions: Sequence[Confusion]
    lengths: Sequence[Length]
    calibration: Calibration | None
    scaled: Calibration | None
    """Its calibration with the temperatures; None if they are not recorded."""
    temperatures: Sequence[float]
    cut: Truncation | None
    seeds: int
    problems: Sequence[str]

    @property
    def scores(self) -> list[tuple[str, float | None]]:
        """(text, number) of its calibration in the columns SCORES; dashes if probabilities are not stored."""
        own = self.calibration
        if own is None:
            return [(DASH, None)] * len(SCORES)
        digits = zip((own.by_chance, own.ece_equal_mass, own.brier, own.log_loss, own.confidence, own.right),
                     (2, 2, 3, 3, 1, 1), strict=True)  # fmt: skip
        rest = [(number(numbers.mean(values), places), numbers.mean(values)) for values, places in digits]
        return [(str(self.seeds), self.seeds), (spread(own.ece), numbers.mean(own.ece)), *rest, *self._scaled]

    @property
    def _scaled(self) -> list[tuple[str, float | None]]:
        """(text, number) of temperature, ECE and log loss with it; dashes if it is not recorded."""
        if self.scaled is None:
            return [(DASH, None)] * 3
        columns = ((self.temperatures, 2), (self.scaled.ece, 2), (self.scaled.log_loss, 3))
        return [(number(numbers.mean(values), digits), numbers.mean(values)) for values, digits in columns]

    @property
    def doubt(self) -> str:
        """A sentence on temperatures at the end of their range; empty without any."""
        ends = sum(not LEAST < value < MOST for value in self.temperatures) if self.scaled else 0
        if not ends:
            return ""
        which = "The temperature" if len(self.temperatures) == 1 else f"{ends} of {len(self.temperatures)} temperatures"
        many = "s" if len(self.temperatures) == 1 else ""
        return f"{which} of {self.label} lie{many} at the end of the range ({LEAST:g} to {MOST:g}): not determined by validation."


def facts(settings: Iterable[Details]) -> tuple[str, ...]:
    """Return the sentences that explain SCORES, and name doubtful ones; they leave out the spread if all settings have one seed."""
    settings = list(settings)
    several = any("±" in text for setting in settings for text, _ in setting.scores)
    explained = FACTS if several else tuple(fact.removesuffix(OF_SEVERAL) for fact in FACTS)
    return (*explained, *(fact for setting in settings if (fact := setting.doubt)))


def details_of(side: Side, pieces: Array | None = None) -> Details:
    """Return the details of one side. `pieces` are the lengths of the texts used for bins, by default the side's own."""
    pieces = side.pieces if pieces is None else pieces
    own = pieces if side.pieces is None else side.pieces  # encoders differ in pieces per text
    bins = []
    for part in lengths.bins(pieces) if side.seeds and pieces is not None else ():
        longer = None if side.cut is None or own is None else 100 * float((own[part.texts] > side.cut.max_length).mean())
        bins.append(Length(part.low, part.high, int(part.texts.sum()), longer, lengths.error(side.seeds, part)))
    several = bool(side.seeds) and side.seeds[0].several
    calibrated = side.calibration, side.scaled, side.temperatures
    return Details(
        *(side.label, several, side.labels, side.confusions, bins, *calibrated, side.cut, len(side.seeds), side.problems)
    )


@dataclass(frozen=True)
class ComparedDetails:
    """The details of one setting on a task, compared with others."""

    name: str
    """Name of the task."""
    key: str
    """Makes the names of its figures and ids unique."""
    sides: Sequence[Details]
    """The setting, then the others."""
    gaps: Sequence[Sequence[Estimate]]
    """By other setting and bin of lengths: error of the first setting minus error of the other."""
    f1: Sequence[tuple[str, Mapping[int, float | None]]]
    """(label, {index of a class: mean F1}) of the others, without the bag of words."""
    figures: Mapping[str, Figure]

    @property
    def first(self) -> Details:
        """The setting that is compared with the others."""
        return self.sides[0]

    @property
    def labels(self) -> list[Label]:
        """Its most frequent classes or labels."""
        return labels.shown(self.first.labels)

    @property
    def left_out(self) -> str:
        """Sentence on the classes left out of the page; empty if all are shown."""
        shown, every = len(self.labels), len(self.first.labels)
        return f"The {shown} most frequent of {every}; labels.csv has all." if shown < every else ""

    @property
    def confusions(self) -> Sequence[Confusion]:
        """Its largest confusions."""
        return self.first.confusions[: labels.MOST]

    @property
    def problems(self) -> list[str]:
        """Files that could not be used, a sentence each."""
        return list(dict.fromkeys(f"{side.label}: {text}" for side in self.sides for text in side.problems))

    @property
    def length_rows(self) -> list[tuple[str, str, list[str], list[str], list[str]]]:
        """Rows of the table of lengths: (pieces, texts, shares beyond every cut, errors of the sides, gaps to the others)."""
        rows = []
        for place, part in enumerate(self.first.lengths):
            bins = [side.lengths[place] for side in self.sides if side.lengths]
            beyond = [number(side.lengths[place].longer, 0) for side in self._cutting]
            errors = [_with(number(bin_.estimate.value, 1), bin_.interval) for bin_ in bins]
            gaps = [_with(signed(gap[place].value), lengths.interval(gap[place], -100.0), signed) for gap in self.gaps]
            rows.append((part.name, f"{part.texts:,}", beyond, errors, gaps))
        return rows

    @property
    def length_heads(self) -> tuple[list[str], list[str], list[str]]:
        """Heads of the columns of `length_rows`."""
        sides = [side.label for side in self.sides if side.lengths]
        cuts = [f"longer than {side.cut.max_length} %" for side in self._cutting if side.cut]
        return cuts, [f"{label} error %" for label in sides], [f"{sides[0]} minus {label}, points" for label in sides[1:]]

    @property
    def _cutting(self) -> list[Details]:
        """One side for every distinct length read at once."""
        by_cut = {side.cut.max_length: side for side in reversed(self.sides) if side.cut and side.lengths}
        return list(reversed(by_cut.values()))

    @property
    def length_facts(self) -> list[str]:
        """Sentences that explain the table of lengths."""
        if not self.first.lengths:
            return []
        sentences = [
            "Length in pieces before truncation, special tokens included; bins are quantiles, with about equally many texts."
        ]
        sentences += [f"{side.label} {side.cut.name} pieces." for side in self.sides if side.cut]
        sentences.append("Error: share of misclassified texts, whatever the metric.")
        sentences.append("In brackets the 95 % interval over seeds and texts of the bin; none for one seed or zero variance.")
        return sentences


def compare_details(name: str, key: str, sides: Sequence[Side], bag: Side | None = None) -> ComparedDetails | None:
    """Compare a setting, the first of `sides`, with others on the same texts; None without predictions of the first."""
    if not sides or not sides[0].seeds:
        return None
    same = [side for side in (*sides, *([bag] if bag else [])) if side.same_texts(sides[0])]
    pieces = next((side.pieces for side in same if side.pieces is not None), None)
    parts = [] if pieces is None else lengths.bins(pieces)
    settings = [details_of(side, pieces) for side in same]
    gaps = [[lengths.gap(same[0].seeds, other.seeds, part) for part in parts] for other in same[1:]]
    f1 = [
        (other.label, {label.place: numbers.mean(label.f1) for label in other.labels})
        for side, other in zip(same[1:], settings[1:], strict=True)
        if side is not bag
    ]
    drawn = {"reliability": reliability(settings, key), "lengths": by_length(settings, key)}
    return ComparedDetails(name, key, settings, gaps, f1, {name: drawing for name, drawing in drawn.items() if drawing is not None})


# Figures -------------------------------------------------------------------------------------------------------------------------


def reliability(sides: Sequence[Details], key: str) -> Figure | None:
    """Draw the share of right predictions against confidence, over all seeds; None without probabilities."""
    drawn = [(place, side, side.calibration) for place, side in enumerate(sides) if side.calibration]
    if not drawn:
        return None
    what = "decisions" if drawn[0][2].several else "texts"
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=COLOURS["muted"], linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        for place, _, calibration in drawn:
            colour, marker, style = SERIES[place % len(SERIES)]
            x, y = [100 * group.confidence for group in calibration.bins], [100 * group.right for group in calibration.bins]
            total = sum(group.texts for group in calibration.bins)
            sizes = [8 + 90 * group.texts / total for group in calibration.bins]
            axes.plot(x, y, color=COLOURS[colour], linestyle=style, linewidth=1.2)
            axes.scatter(
                x, y, s=sizes, marker=marker, color=COLOURS[colour], linewidths=0, alpha=0.85, zorder=3, gid=f"bins-{place}"
            )
            tips[f"bins-{place}"] = [
                f"{sides[place].label}: {group.texts:,.1f} {what} with {100 * group.low:.0f} to {100 * group.high:.0f} %,"
                f" on average {100 * group.confidence:.1f} %; {100 * group.right:.1f} % right"
                for group in calibration.bins
            ]
        axes.set_xlim(0, 102)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("probability of a label, %" if what == "decisions" else "confidence, %")
        axes.set_ylabel("have it, %" if what == "decisions" else "right, %")

    legend = [(side.label[:24], line(*_look(place))) for place, side, _ in drawn]
    description = "; ".join(
        f"{side.label}: expected calibration error {number(numbers.mean(calibration.ece))} %" for _, side, calibration in drawn
    )
    caption = (
        f"Reliability: share of {what} that are right against their confidence, over all seeds; on the dashed line the two are"
    )
    caption += f" equal. The larger the mark, the more {what}."
    return Figure(f"reliability-{key}", "Reliability diagram", description, caption, draw, tips, legend)


def by_length(sides: Sequence[Details], key: str) -> Figure | None:
    """Draw the error against length with intervals and the truncation lengths; None without several bins."""
    drawn = [(place, side) for place, side in enumerate(sides) if len(side.lengths) > 1]
    if not drawn:
        return None
    parts = drawn[0][1].lengths
    names = [part.name for part in parts]
    cuts = sorted({side.cut.max_length for _, side in drawn if side.cut and parts[0].low <= side.cut.max_length < parts[-1].high})
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        for length in cuts:
            axes.axvline(_place(length, parts), color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        for turn, (place, side) in enumerate(drawn):
            colour, marker, style = SERIES[place % len(SERIES)]
            x = [at + 0.12 * (turn - (len(drawn) - 1) / 2) for at in range(len(parts))]
            y = [part.estimate.value for part in side.lengths]
            for at, part in zip(x, side.lengths, strict=True):
                if part.interval:
                    axes.plot([at, at], part.interval, color=COLOURS[colour], linewidth=2.5, alpha=0.35, solid_capstyle="butt")
            axes.plot(x, y, color=COLOURS[colour], linestyle=style, linewidth=1.2)
            axes.scatter(x, y, s=24, marker=marker, color=COLOURS[colour], linewidths=0, zorder=3, gid=f"lengths-{place}")
            tips[f"lengths-{place}"] = [
                f"{side.label}: {part.estimate.value:.2f} % of {part.texts:,} texts of {name} pieces"
                for name, part in zip(names, side.lengths, strict=True)
            ]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("pieces of a text before truncation")
        axes.set_ylabel("error, %")

    legend = [(side.label[:24], line(*_look(place))) for place, side in drawn]
    description = "; ".join(
        f"{side.label}: " + ", ".join(f"{n} pieces {e.estimate.value:.1f} %" for n, e in zip(names, side.lengths, strict=True))
        for _, side in drawn
    )
    caption = "Errors by length: mean over seeds, with the 95 % interval over seeds and texts (bar)."
    caption += f" Dashed: {' and '.join(map(str, cuts))} pieces, the number read at once." if cuts else ""
    return Figure(f"lengths-{key}", "Errors by length", description, caption, draw, tips, legend)


def _look(place: int) -> tuple[str, float, str, str]:
    colour, marker, style = SERIES[place % len(SERIES)]
    return colour, 1.2, marker, style


def _place(length: int, parts: Sequence[Length]) -> float:
    """Position on the axis of bins beyond which texts are longer than `length`."""
    for at, part in enumerate(parts):
        if length < part.high:
            return at - 0.5 + max(0.0, (length - part.low + 0.5) / (part.high - part.low + 1))
        if length == part.high:
            return at + 0.5
    return len(parts) - 0.5


def _with(value: str, bounds: tuple[float, float] | None, form: Any = number) -> str:
    """Append bounds to a number: `12.3 (10.1 to 14.6)`; without bounds the number alone."""
    return value if bounds is None else f"{value} ({form(bounds[0], 1)} to {form(bounds[1], 1)})"


# CSV -----------------------------------------------------------------------------------------------------------------------------

RowKey = Mapping[str, Any]
"""The columns of a csv row that identify the setting."""


def csv_files(columns: Sequence[str], settings: Callable[[], Sequence[tuple[RowKey, Details]]]) -> dict[str, Callable[[], str]]:
    """Return {name of a csv file: function that makes it}, with rows by class, pair of classes, bin of lengths, and setting."""
    makers = {"labels": (LABELS, _labels), "confusions": (CONFUSIONS, _confusions), "lengths": (LENGTHS, _lengths)}
    makers |= {"calibration": (CALIBRATION, _calibration)}

    def text(own: Sequence[str], rows: Callable[[Details], list[dict[str, Any]]]) -> str:
        return csv_text((*columns, *own), [{**place, **row} for place, setting in settings() for row in rows(setting)])

    return {f"{name}.csv": partial(text, *maker) for name, maker in makers.items()}


def _labels(setting: Details) -> list[dict[str, Any]]:
    return [
        {
            "label": label.name,
            "texts": label.texts,
            "given": label.predicted,
            "threshold": label.threshold,
            "precision_percent": label.precision,
            "recall_percent": label.recall,
            "f1_percent": numbers.mean(label.f1),
            "f1_sd_percent": numbers.sd(label.f1),
            "bag_of_words_f1_percent": label.baseline,
        }
        for label in setting.labels
    ]


def _confusions(setting: Details) -> list[dict[str, Any]]:
    return [
        {"label": confusion.name, "given": confusion.instead, "texts": confusion.texts, "share_percent": confusion.share}
        for confusion in setting.confusions
    ]


def _lengths(setting: Details) -> list[dict[str, Any]]:
    return [
        {
            "least_pieces": part.low,
            "most_pieces": part.high,
            "texts": part.texts,
            "max_length": setting.cut.max_length if setting.cut else None,
            "truncation": setting.cut.truncation if setting.cut else None,
            "longer_than_max_length_percent": part.longer,
            "error_percent": part.estimate.value,
            "interval_low_percent": part.interval[0] if part.interval else None,
            "interval_high_percent": part.interval[1] if part.interval else None,
        }
        for part in setting.lengths
    ]


def _calibration(setting: Details) -> list[dict[str, Any]]:
    scores = setting.calibration
    if scores is None:
        return []
    return [
        {
            "texts": scores.texts,
            "counted": "decisions" if scores.several else "texts",
            "ece_percent": numbers.mean(scores.ece),
            "ece_sd_percent": numbers.sd(scores.ece),
            "ece_equal_mass_percent": numbers.mean(scores.ece_equal_mass),
            "ece_by_chance_percent": numbers.mean(scores.by_chance),
            "brier": numbers.mean(scores.brier),
            "log_loss": numbers.mean(scores.log_loss),
            "mean_confidence_percent": numbers.mean(scores.confidence),
            "right_percent": numbers.mean(scores.right),
            "temperature": numbers.mean(setting.temperatures) if setting.scaled else None,
            "scaled_ece_percent": numbers.mean(setting.scaled.ece) if setting.scaled else None,
            "scaled_log_loss": numbers.mean(setting.scaled.log_loss) if setting.scaled else None,
        }
    ]
