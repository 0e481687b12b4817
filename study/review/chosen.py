"""Choose the final of a run whose weights are its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.settings.errors import ConfigError, near

if TYPE_CHECKING:
    from analysis.records.run_folder import Run
    from analysis.records.trials import Trial
    from analysis.results.final_settings import FinalSetting

HOW_TO_GET_FINALS = "study run RUN goes on to the finals, which follow the search"


@dataclass(frozen=True)
class ChosenFinal:
    """The trial whose weights are the model."""

    run: Run
    """The study that it belongs to."""
    trial: Trial
    setting: FinalSetting
    """Its setting with all seeds."""
    why: str
    """How it was chosen, as the rest of a sentence."""

    @property
    def score(self) -> str:
        """Scores in words: `validation error 12.00 %, test error 11.50 %`."""
        metric = self.run.metric
        scores = {"validation": self.trial.score, "test": metric.score(self.trial.test) if self.trial.test else None}
        return ", ".join(f"{split} {metric.label} {value:.2f} %" for split, value in scores.items() if value is not None)


def choose(run: Path, name: str | None = None, task: str | None = None, seed: int | None = None) -> ChosenFinal:
    """Choose a final: of a study by default the chosen setting, of that the seed that is best on validation.

    `name` is the name of a final, or the label of a setting or cell. Raises ConfigError if the run has no such final.
    """
    from analysis.records.run_folder import load
    from analysis.results.read_ablation import is_ablation

    try:
        if is_ablation(run):
            return _of_ablation(run, name, task, seed)
        return _of_study(load(run), name, seed)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError([str(error)]) from None


def _of_study(run: Run, name: str | None, seed: int | None) -> ChosenFinal:
    from analysis.results.final_settings import is_settled, settings

    ranked = settings(run)
    if not ranked:
        raise ConfigError([f"{run.folder}: no final has ended: {_state(run)}; {HOW_TO_GET_FINALS}"])
    if name is None and not is_settled(run):
        ready = ", ".join(trial.name for setting in ranked for trial in setting.trials)
        unsettled = "no setting is chosen yet, since not all finals have ended"
        raise ConfigError([f"{run.folder}: {unsettled}: study run goes on, or give --trial, one of {ready}"])
    for setting in ranked:
        for trial in setting.trials:
            if name == trial.name:
                if seed not in (None, trial.seed):
                    raise ConfigError([f"--seed {seed}: {name} has seed {trial.seed}"])
                return ChosenFinal(run, trial, setting, f"seed {trial.seed} of the setting {setting.label!r}, named by --trial")
    named = [setting for setting in ranked if name == setting.label] if name is not None else ranked[:1]
    if not named:
        known = [trial.name for setting in ranked for trial in setting.trials] + [setting.label for setting in ranked]
        raise ConfigError([f"--trial {name}: no final of {run.folder} that has ended{near(str(name), known)}"])
    return _best_seed(run, named[0], seed, "the chosen setting" if name is None else f"the setting {named[0].label!r}")


def _of_ablation(run: Path, name: str | None, task: str | None, seed: int | None) -> ChosenFinal:
    """The best seed of a cell, which is named by its label, or a final as `folder/f00`."""
    from analysis.records.run_folder import load
    from analysis.results.final_settings import settings
    from analysis.results.read_ablation import ledger

    cells = [cell for cell in ledger(run).cells if cell.finished]
    if not cells:
        raise ConfigError([f"{run}: no cell of the ablation has a result yet; study reproduce goes on"])
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if name is None:
        raise ConfigError([f"{run}: an ablation has no best cell: give --trial with one of its cells: {'; '.join(labels)}"])
    named = [cell for cell in cells if cell.label == name]
    if not named:
        raise ConfigError([f"--trial {name!r}: no cell of {run} with a result{near(name, labels)}"])
    check_task("--trial", name, task, [cell.task for cell in named], "result")
    cell = next(cell for cell in named if task in (None, cell.task))
    study, names = load(run / cell.finished[0].study), {one.trial.name for one in cell.finished}
    setting = next(setting for setting in settings(study) if names & {trial.name for trial in setting.trials})
    return _best_seed(study, setting, seed, f"the cell {name!r} on {cell.task}")


def check_task(place: str, cell: str, task: str | None, having: Sequence[str], what: str) -> None:
    """Raise ConfigError if `--task` is missing where several tasks have the cell, or names one that has not `what` for it."""
    tasks = list(dict.fromkeys(having))
    if task is None and len(tasks) > 1:
        raise ConfigError([f"{place} {cell!r}: several tasks have it; give --task, one of {', '.join(tasks)}"])
    if task is not None and task not in tasks:
        raise ConfigError([f"--task {task}: {cell!r} has no {what} for it{near(task, tasks)}"])


def _best_seed(run: Run, setting: FinalSetting, seed: int | None, of: str) -> ChosenFinal:
    """The seed of a setting that is best on validation, the smallest of equals; or the one that was asked for."""
    seeds = {trial.seed: trial for trial in setting.trials}
    if seed is not None and seed not in seeds:
        raise ConfigError([f"--seed {seed}: {of} has no final with it that has ended; there are {', '.join(map(str, seeds))}"])
    if seed is not None:
        return ChosenFinal(run, seeds[seed], setting, f"seed {seed} of {of}, named by --seed")
    best = min(setting.trials, key=lambda trial: (run.loss(trial), trial.seed or 0))
    many = len(setting.trials)
    why = f"seed {best.seed} of {of}" + (f", the best of {many} seeds on validation" if many > 1 else "")
    return ChosenFinal(run, best, setting, why)


def _state(run: Run) -> str:
    """What a run without finals has, in words."""
    complete = sum(trial.status == "complete" for trial in run.search)
    trials = f"{len(run.search)} trials of the search, {complete} of them complete" if run.search else "no trial"
    return f"the run is {run.state} and has {trials}"
