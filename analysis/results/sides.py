"""A setting on a task with the test predictions of its seeds, from which pages show classes, lengths and calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import predictions
from analysis.records.predictions import Array, Predictions
from analysis.records.record_fields import BAG_OF_WORDS
from analysis.records.run_folder import Run, unread
from analysis.records.trials import Trial
from analysis.results.final_settings import FinalSetting
from analysis.results.ledger import Cell, Ledger
from analysis.stats import labels
from analysis.stats.calibration import Calibration, calibration, scaled
from analysis.stats.labels import Confusion, Label
from analysis.text.plain import plain


@dataclass(frozen=True)
class Truncation:
    """The part of a text that a setting reads."""

    max_length: int
    """Pieces, special tokens included."""
    truncation: str

    @property
    def fractions(self) -> bool:
        """Whether it reads longer texts whole, in fractions of that length."""
        return self.truncation.startswith("hier")

    @property
    def name(self) -> str:
        """Description in words."""
        return f"reads longer texts in fractions of {self.max_length}" if self.fractions else f"cuts at {self.max_length}"


@dataclass(frozen=True, eq=False)
class Side:
    """A setting on a task, or the bag of words."""

    label: str
    names: Sequence[str] = ()
    """Names of the classes."""
    seeds: tuple[Predictions, ...] = ()
    """Predictions of all tested seeds; empty if those of one seed are missing or of other texts."""
    probabilities: tuple[Array, ...] = ()
    """[texts, classes] of each seed; empty if those of one seed are not stored or unusable."""
    thresholds: tuple[Sequence[Any], ...] = ()
    """Thresholds of the labels of each seed, for a task with several labels per text."""
    temperatures: tuple[float, ...] = ()
    """Temperature of each seed, fitted on validation; empty if that of one seed is not recorded."""
    bag: Predictions | None = None
    """Predictions of the bag of words on the same texts."""
    cut: Truncation | None = None
    """None if unknown."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be used, a sentence each."""

    @property
    def labels(self) -> list[Label]:
        """Statistics of every class or label."""
        return labels.of_predictions(self.seeds, self.names, self.bag, self.thresholds)

    @property
    def confusions(self) -> list[Confusion]:
        """Misclassified texts by true and predicted class, most frequent first."""
        return labels.confusions(self.seeds, self.names)

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of its probabilities; None without them."""
        return calibration(self.seeds, self.probabilities) if self.probabilities else None

    @property
    def scaled(self) -> Calibration | None:
        """The same with the temperature of each seed; None without probabilities or temperatures."""
        if not self.probabilities or not self.temperatures:
            return None
        several = self.seeds[0].several
        each = zip(self.probabilities, self.temperatures, strict=True)
        return calibration(self.seeds, [scaled(values, temperature, several) for values, temperature in each])

    @property
    def pieces(self) -> Array | None:
        """[n]: length of each text in pieces; None if not stored."""
        return self.seeds[0].pieces if self.seeds else None

    def same_texts(self, other: Side) -> bool:
        """Whether both were tested on the same texts."""
        return bool(self.seeds and other.seeds) and self.seeds[0].digest == other.seeds[0].digest


def of_setting(run: Run, setting: FinalSetting) -> Side:
    """Return the side of a study's final setting."""
    return _side(setting.label, run.labels, [(run.folder, trial) for trial in setting.trials if trial.test], run.config)


def of_baseline(run: Run) -> Side | None:
    """Return the side of a study's bag of words; None without one."""
    side = _side("bag of words", run.labels, [(run.folder, Trial(BAG_OF_WORDS, "baseline"))], {})
    return side if side.seeds else None


def of_cell(ledger: Ledger, cell: Cell) -> Side:
    """Return the side of an ablation's cell."""
    if not cell.finished:
        return Side(cell.label)
    studies = [ledger.studies[run.study] for run in cell.finished]
    where = [(study.folder, run.trial) for study, run in zip(studies, cell.finished, strict=True)]
    return _side(cell.label, studies[0].labels, where, studies[0].config)


def _side(label: str, names: Sequence[str], where: Sequence[tuple[Path, Trial]], config: Mapping[str, Any]) -> Side:
    """Build a side from finals, `where` with the run folders of their studies."""
    problems: list[str] = []
    seeds, stored = [], []
    for folder, trial in where:
        try:
            seeds.append(predictions.of_trial(folder, trial.name, len(names)))
        except (OSError, ValueError) as error:
            problems.append(f"{trial.name}: {unread(error)}")
    if len(seeds) < len(where) or len({(values.has.shape, values.digest) for values in seeds}) != 1:
        return Side(plain(label, 60), names, problems=problems)
    for (folder, trial), values in zip(where, seeds, strict=True):
        try:
            stored.append(predictions.probabilities(folder, trial.name, values))
        except (OSError, ValueError) as error:
            problems.append(plain(error, 160))
    usable = [values for values in stored if values is not None]
    lengths = [values.pieces for values in seeds]
    if any(values is None or not np.array_equal(values, lengths[0]) for values in lengths):  # type: ignore[arg-type]
        seeds[0] = Predictions(seeds[0].has, seeds[0].predicted, seeds[0].classes)  # lengths are missing for some seeds, or differ
    return Side(
        plain(label, 60),
        names,
        tuple(seeds),
        tuple(usable) if len(usable) == len(seeds) else (),
        tuple(list((trial.test or {}).get("thresholds") or ()) for _, trial in where),
        _temperatures([trial for _, trial in where]),
        _bag(where[0][0], seeds[0]),
        _cut(where[0][1].params, config),
        problems,
    )


def _temperatures(trials: Sequence[Trial]) -> tuple[float, ...]:
    """The recorded temperatures of the trials; empty unless all have a positive one."""
    recorded = [(trial.test or {}).get("temperature") for trial in trials]
    usable = [float(value) for value in recorded if isinstance(value, int | float) and math.isfinite(value) and value > 0]
    return tuple(usable) if len(usable) == len(recorded) else ()


def _bag(folder: Path, like: Predictions) -> Predictions | None:
    """The bag of words of a study, if it was tested on the same texts."""
    with suppress(OSError, ValueError):
        predictions_of_bag = predictions.of_trial(folder, BAG_OF_WORDS, like.classes)
        return predictions_of_bag if predictions_of_bag.digest == like.digest else None
    return None


def _cut(params: Mapping[str, Any], config: Mapping[str, Any]) -> Truncation | None:
    """The truncation of fine-tuning: from the trial's parameters, else from the study file."""
    stage = next((settings for settings in reversed(list(_stages(config))) if isinstance(settings, dict)), {})
    name = stage.get("name") if isinstance(stage.get("name"), str) else "finetune"
    length, how = (params.get(f"{name}.{key}", stage.get(key)) for key in ("max_length", "truncation"))
    return Truncation(length, plain(how or "", 40)) if isinstance(length, int) and not isinstance(length, bool) else None


def _stages(config: Mapping[str, Any]) -> Iterator[Any]:
    """Settings of fine-tuning in a resolved study file."""
    recipe = config.get("recipe")
    for stage in recipe if isinstance(recipe, list) else ():
        if isinstance(stage, dict) and "finetune" in stage:
            yield stage["finetune"]
