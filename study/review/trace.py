"""Recompute one number: repeat the fine-tuning behind a cell in a temporary store, and compare with the record."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.review.chosen import check_task
from trainables.settings.errors import ConfigError, near

if TYPE_CHECKING:
    from study.definition.models import Study
    from trainables.settings.execution import Execution
    from trainables.settings.recipe import Recipe
    from trainables.store.store import Store

Row = dict[str, Any]


@dataclass(frozen=True)
class TracedFinal:
    """The final that a number comes from."""

    label: str
    task: str
    study: Path
    """Run folder of its study."""
    trial: str
    seed: int
    params: Mapping[str, Any]
    recorded: float
    """Test error, percent."""
    stage_id: str = ""
    """Id of its fine-tuning; empty if the records lack it."""
    test_id: str = ""
    """Id of its predictions on the test split; empty if the records lack it."""


@dataclass(frozen=True)
class Traced:
    """A number and its recomputation."""

    source: TracedFinal
    error: float
    """Test error now, percent."""
    changed: int | None
    """Number of test texts with another prediction than recorded; None if predictions were not stored or are of other texts."""
    texts: int
    recomputed: tuple[str, ...]
    """Shared stages that the store no longer had, so that they were computed too."""
    differs: str = ""
    """Differences of the inputs from those when the number was recorded, in words."""

    @property
    def again(self) -> bool:
        """Whether the same inputs gave the same number again, and the same predictions if they were stored."""
        return self.error == self.source.recorded and not self.changed and not self.differs

    def __str__(self) -> str:
        """Describe the outcome in words."""
        at = f"{self.source.label} on {self.source.task}, seed {self.source.seed} ({self.source.study.name}/{self.source.trial})"
        words = "reproduced" if self.again else "NOT reproduced"
        if self.differs:
            words = "not comparable, since the inputs have changed"
        text = f"{at}: recorded {self.source.recorded:.4f} % test error, now {self.error:.4f} %: {words}"
        if self.changed is not None:
            compared = "all predictions are the same" if not self.changed else f"{self.changed} of {self.texts} predictions differ"
            text += f"; {compared}"
        if self.differs:
            text += f"\nnot the same as recorded: {self.differs}"
        if self.recomputed:
            text += f"\ncomputed too, since the store no longer has it: {', '.join(self.recomputed)}"
        return text


def trace(run: Path, cell: str, task: str | None = None, seed: int | None = None, store: str | None = None) -> Traced:
    """Recompute one cell's number, of the given seed or its first. Shared stages are loaded from the store if it has them.

    Raises ConfigError if there is no such run, cell or seed, or if its study can no longer be read.
    """
    from analysis.records import record
    from study.cluster import work
    from study.run import inputs
    from trainables.stages.identity import nodes
    from trainables.stages.inputs import Inputs, Reader
    from trainables.stages.node import test_id
    from trainables.store.store import Store

    finals = sources(run)
    if finals and not any(cell in (final.label, final.trial) for final in finals) and (state := _without(run, cell)):
        raise ConfigError([f"CELL {cell!r}: it has no number to compute again; its state is {state}"])
    source = _chosen(finals, cell, task, seed)
    rows, _ = record.read(source.study / "records.jsonl")
    study, rows, recipe = recorded(source.study, rows, source.trial, source.params, source.seed)
    execution = as_before(study, rows, source.trial).execution_for(keep_weights=True)
    recipe = with_precision(recipe, execution)
    reader = Reader()
    read = Inputs(recipe, reader)
    *before, last = nodes(read)
    differs = _differs(source, last.stage_id, test_id(read.target, last.stage_id))
    differs = "; ".join(filter(None, [differs, *inputs.changes(inputs.known(rows), inputs.of(study, reader))]))
    shared = Store(store or study.store or Store.default().url)
    with tempfile.TemporaryDirectory(prefix="study-trace-") as folder:
        fresh = Store(folder)
        lacking = [f"{node.stage.name} {node.stage_id[:12]}" for node in before if not copied(shared, fresh, node.stage_id)]
        again = work.Work(source.trial, recipe, fresh.url, execution)
        for _ in work.here(again, reader):
            pass
        row = work.read_test(again, reader)
        changed, texts = _changed(source, fresh, row)
    return Traced(source, row["error_rate_percent"], changed, texts, tuple(lacking), differs)


def recorded(
    folder: Path, rows: Sequence[Row], trial: str, params: Mapping[str, Any], seed: int
) -> tuple[Study, list[Row], Recipe]:
    """(study of a run folder, its records with paths as they are now, recipe of a trial), with `params` if no record has them."""
    from study.definition.paths import in_place
    from study.definition.study_file import load_study

    study = load_study(folder / "study.yaml")
    own, _ = in_place(study, folder, list(rows))
    known = next((row["params"] for row in reversed(own) if row.get("trial") == trial and "params" in row), params)
    return study, own, study.recipe_for(dict(known), seed)


def with_precision(recipe: Recipe, execution: Execution) -> Recipe:
    """The recipe with `precision: auto` resolved for the device of the execution."""
    from study.cluster import work

    return recipe if recipe.precision != "auto" else recipe.model_copy(update={"precision": work.best_precision(execution)})


def as_before(study: Study, rows: Sequence[Row], trial: str) -> Study:
    """The study with `gpus: auto` resolved to the device on which the trial was computed."""
    devices = [row["device"] for row in rows if row.get("trial") == trial and row.get("device")]
    return study if study.resources.gpus != "auto" else study.on(float(devices[-1:] not in ([], ["cpu"])))


def _differs(source: TracedFinal, stage_id: str, test_id: str) -> str:
    """Differences of data and encoder, by the ids of stages, which are hashed from their content; empty without any."""
    if source.stage_id and source.stage_id != stage_id:
        return (
            f"the fine-tuning was {source.stage_id[:12]} and is {stage_id[:12]} now, so that training or validation texts,"
            " a corpus, the encoder, the precision or the version of the package have changed"
        )
    return "the test texts have changed" if source.test_id and source.test_id != test_id else ""


def copied(shared: Store, fresh: Store, stage_id: str) -> bool:
    """Copy an artifact with all its files; False if it or some of its files are gone."""
    artifact = shared.get(stage_id)
    if artifact is None or artifact.pruned:
        return False
    with suppress(OSError):
        fresh.publish(stage_id, artifact.manifest, {name: artifact.path(name) for name in artifact.files})
        return True
    return False


def _changed(source: TracedFinal, fresh: Store, row: Row) -> tuple[int | None, int]:
    """(number of test texts with another prediction than recorded, number of test texts); (None, 0) without predictions."""
    import numpy as np

    from analysis.records import predictions
    from trainables.store.artifact_files import PREDICTIONS

    artifact = fresh.get(row["stage_id"])
    try:
        before = predictions.of_trial(source.study, source.trial)
        now = predictions.read(artifact.path(PREDICTIONS)) if artifact else before
    except (OSError, ValueError):
        return None, 0
    if before.predicted.shape != now.predicted.shape:
        return None, 0
    differ = before.predicted != now.predicted
    return int(np.sum(differ.any(axis=1) if differ.ndim > 1 else differ)), len(differ)


# Which final ---------------------------------------------------------------------------------------------------------------------


def sources(run: Path) -> list[TracedFinal]:
    """Return every number of a run, an ablation or a study. Raises ConfigError without a run."""
    from analysis.records.run_folder import load
    from analysis.results.read_ablation import is_ablation, ledger

    try:
        if is_ablation(run):
            cells = ledger(run).cells
            pairs = [(c.label, c.task, run / final.study, final.trial) for c in cells for final in c.finished]
        else:
            pairs = [(t.label, str((t.test or {}).get("task") or ""), run, t) for t in load(run).finals]
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from None
    return [
        TracedFinal(
            label,
            task,
            study,
            t.name,
            t.seed,
            t.params,
            t.test["error_rate_percent"],
            "".join(t.stage_ids[-1:]),
            str(t.test.get("stage_id") or ""),
        )
        for label, task, study, t in pairs
        if t.test and t.test.get("error_rate_percent") is not None and t.seed is not None
    ]


def _without(run: Path, cell: str) -> str:
    """The states of a cell that was run and has no number; empty if no such cell was run."""
    from analysis.records.run_folder import load
    from analysis.results.read_ablation import is_ablation, ledger

    if is_ablation(run):
        states = [other.state for other in ledger(run).cells if cell == other.label]
    else:
        states = [trial.status for trial in load(run).trials if cell in (trial.label, trial.name)]
    return ", ".join(dict.fromkeys(states))


def _chosen(finals: Sequence[TracedFinal], cell: str, task: str | None, seed: int | None) -> TracedFinal:
    if not finals:
        raise ConfigError(["the run has no number yet: no final's test split was read"])
    named = [final for final in finals if cell in (final.label, final.trial)]
    if not named:
        raise ConfigError([f"CELL {cell!r}: no such cell{near(cell, list(dict.fromkeys(final.label for final in finals)))}"])
    check_task("CELL", cell, task, [final.task for final in named], "number")
    seeds = {final.seed: final for final in named if task in (None, final.task)}
    if seed is not None and seed not in seeds:
        raise ConfigError([f"--seed {seed}: {cell!r} has no number for it; there are {', '.join(map(str, seeds))}"])
    return seeds[seed] if seed is not None else next(iter(seeds.values()))
