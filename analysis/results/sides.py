"""A setting on a task with the test predictions of its seeds: what both kinds of page say of classes, lengths, probabilities."""

from __future__ import annotations

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
from analysis.results.final_settings import Setting
from analysis.results.ledger import Cell, Ledger
from analysis.stats import labels
from analysis.stats.calibration import Calibration, calibration
from analysis.stats.labels import Confusion, Label
from analysis.text.plain import plain


@dataclass(frozen=True)
class Cut:
    """What a setting reads of a text."""

    max_length: int
    """Pieces, special tokens included."""
    truncation: str

    @property
    def fractions(self) -> bool:
        """Whether it reads longer texts in fractions of that length."""
        return self.truncation.startswith("hier")

    @property
    def name(self) -> str:
        """In words."""
        return f"reads longer texts in fractions of {self.max_length}" if self.fractions else f"cuts at {self.max_length}"


@dataclass(frozen=True, eq=False)
class Side:
    """A setting on a task, or the bag of words."""

    label: str
    names: Sequence[str] = ()
    """Of the classes."""
    seeds: tuple[Predictions, ...] = ()
    """Of all that were tested; none where those of one are missing or of other texts."""
    probabilities: tuple[Array, ...] = ()
    """[texts, classes] of each; none where those of one are not kept or not to be used."""
    thresholds: tuple[Sequence[Any], ...] = ()
    bag: Predictions | None = None
    """What the bag of words says of the same texts."""
    cut: Cut | None = None
    """None where it is not known."""
    problems: list[str] = field(default_factory=list)
    """What could not be used."""

    @property
    def labels(self) -> list[Label]:
        """Each class or label."""
        return labels.of_predictions(self.seeds, self.names, self.bag, self.thresholds)

    @property
    def confusions(self) -> list[Confusion]:
        """What is taken for what."""
        return labels.confusions(self.seeds, self.names)

    @property
    def calibration(self) -> Calibration | None:
        """Of its probabilities; None without them."""
        return calibration(self.seeds, self.probabilities) if self.probabilities else None

    @property
    def pieces(self) -> Array | None:
        """[n]: length of each text; None where it is not kept."""
        return self.seeds[0].pieces if self.seeds else None

    def same_texts(self, other: Side) -> bool:
        """Whether both were tested on the same texts."""
        return bool(self.seeds and other.seeds) and self.seeds[0].digest == other.seeds[0].digest


def of_setting(run: Run, setting: Setting) -> Side:
    """A final setting of a study."""
    return _side(setting.label, run.labels, [(run.folder, trial) for trial in setting.trials if trial.test], run.config)


def of_baseline(run: Run) -> Side | None:
    """The bag of words of a study; None where there is none."""
    found = _side("bag of words", run.labels, [(run.folder, Trial(BAG_OF_WORDS, "baseline"))], {})
    return found if found.seeds else None


def of_cell(ledger: Ledger, cell: Cell) -> Side:
    """A cell of an ablation."""
    if not cell.finished:
        return Side(cell.label)
    studies = [ledger.studies[run.study] for run in cell.finished]
    where = [(study.folder, run.trial) for study, run in zip(studies, cell.finished, strict=True)]
    return _side(cell.label, studies[0].labels, where, studies[0].config)


def _side(label: str, names: Sequence[str], where: Sequence[tuple[Path, Trial]], config: Mapping[str, Any]) -> Side:
    """Of finals, each with the run folder of its study."""
    problems: list[str] = []
    seeds, found = [], []
    for folder, trial in where:
        try:
            seeds.append(predictions.of_trial(folder, trial.name, len(names)))
        except (OSError, ValueError) as error:
            problems.append(f"{trial.name}: {unread(error)}")
    if len(seeds) < len(where) or len({(each.has.shape, each.digest) for each in seeds}) != 1:
        return Side(plain(label, 60), names, problems=problems)
    for (folder, trial), each in zip(where, seeds, strict=True):
        try:
            found.append(predictions.probabilities(folder, trial.name, each))
        except (OSError, ValueError) as error:
            problems.append(plain(error, 160))
    usable = [each for each in found if each is not None]
    lengths = [each.pieces for each in seeds]
    if any(each is None or not np.array_equal(each, lengths[0]) for each in lengths):  # type: ignore[arg-type]
        seeds[0] = Predictions(seeds[0].has, seeds[0].given, seeds[0].classes)  # of some seeds only, or of other texts
    return Side(
        plain(label, 60),
        names,
        tuple(seeds),
        tuple(usable) if len(usable) == len(seeds) else (),
        tuple(list((trial.test or {}).get("thresholds") or ()) for _, trial in where),
        _bag(where[0][0], seeds[0]),
        _cut(where[0][1].params, config),
        problems,
    )


def _bag(folder: Path, like: Predictions) -> Predictions | None:
    """The bag of words of a study, if it was tested on the same texts."""
    with suppress(OSError, ValueError):
        found = predictions.of_trial(folder, BAG_OF_WORDS, like.classes)
        return found if found.digest == like.digest else None
    return None


def _cut(params: Mapping[str, Any], config: Mapping[str, Any]) -> Cut | None:
    """What fine-tuning reads of a text: by the trial's parameters, else by the study file."""
    stage = next((each for each in reversed(list(_stages(config))) if isinstance(each, dict)), {})
    name = stage.get("name") if isinstance(stage.get("name"), str) else "finetune"
    length, how = (params.get(f"{name}.{key}", stage.get(key)) for key in ("max_length", "truncation"))
    return Cut(length, plain(how or "", 40)) if isinstance(length, int) and not isinstance(length, bool) else None


def _stages(config: Mapping[str, Any]) -> Iterator[Any]:
    """Settings of fine-tuning in a resolved study file."""
    recipe = config.get("recipe")
    for each in recipe if isinstance(recipe, list) else ():
        if isinstance(each, dict) and "finetune" in each:
            yield each["finetune"]
