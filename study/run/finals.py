"""Run the parts after the search: the best settings over seeds, their ranking, and one evaluation on the test split.

Nothing is chosen after the test split was read.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis.records.metric import objective
from study.definition import space
from study.run.scribe import OVER, Row, TrialSpec, ranking, trial_of, trials
from trainables.stages.node import test_id
from trainables.store.artifact_files import PREDICTIONS, WEIGHTS
from trainables.store.store import StoreError

if TYPE_CHECKING:
    from study.run.session import Session


def runs(s: Session, proposed: dict[str, TrialSpec]) -> list[dict[str, Any]]:
    """Return the configurations of the finals to run: the best settings and the first one, over seeds."""
    search = s.scribe.screen.parts["search"]
    s.scribe.screen.expect("search", search.done, search.done)  # the search may have ended by its time limit
    every = final_trials(s)
    proposed.update({trial.name: trial for trial in every})
    _known_to_diverge(s, every)
    done = trials(s.rows, "final")
    todo = [trial for trial in every if done.get(trial.name, {}).get("status") not in OVER or _is_lost(s, trial, done)]
    s.scribe.screen.expect("finals", len(every), len(every) - len(todo))
    s.scribe.screen.begin("finals", f"the best settings over seeds {', '.join(map(str, s.study.final_seeds()))}")
    for trial in todo:
        _weights_again(s, trial)
    return [{"phase": "final", "trial": trial.name, "params": dict(trial.params), "seed": trial.seed} for trial in todo]


def _known_to_diverge(s: Session, every: list[TrialSpec]) -> None:
    """Record finals that diverged in the search without running them: they would diverge again, bit for bit."""
    done = trials(s.rows, "final")
    diverged = {(row["setting"], row["seed"]): row for row in trials(s.rows, "search").values() if row["status"] == "diverged"}
    for trial in every:
        row = diverged.get((trial.setting, trial.seed))
        if row is not None and done.get(trial.name, {}).get("status") not in OVER:
            s.scribe.known(trial, row)


def _is_lost(s: Session, trial: TrialSpec, done: dict[str, Row]) -> bool:
    """Whether a final is complete and not tested, and this store (perhaps a new one) lacks the weights for the test."""
    if done[trial.name]["status"] != "complete" or trial.name in _tested(s) or _is_predicted(s, trial):
        return False
    artifact = s.store.get(trial.stage_ids[-1])
    return artifact is None or not artifact.has(WEIGHTS)


def _is_predicted(s: Session, trial: TrialSpec) -> bool:
    """Whether the store holds a trial's predictions on the test split."""
    return s.store.get(test_stage(s, trial)) is not None


def test_stage(s: Session, trial: TrialSpec) -> str:
    """Return the id of a trial's test scores, by the data as this process read them."""
    return test_id(s.reader.task(s.study.task, s.study.tasks[s.study.task]), trial.stage_ids[-1])


def _weights_again(s: Session, trial: TrialSpec) -> None:
    """Set aside the artifact of a finished, untested final whose weights were pruned, so that it is computed again."""
    artifact = s.store.get(trial.stage_ids[-1])
    if artifact is not None and not artifact.has(WEIGHTS) and not _is_predicted(s, trial):
        s.store.set_aside(artifact, next(iter(artifact.files)), "its weights were pruned and are needed again")


def final_trials(s: Session) -> list[TrialSpec]:
    """Return a trial for every (setting, seed) of the finals. The names of existing finals never change, also if more are added."""
    chosen: dict[str, tuple[dict[str, Any], str]] = {}
    for rank, row in enumerate(candidates(s), start=1):
        named = s.study.search.labels and row.get("label")
        chosen[row["setting"]] = (row["params"], named or f"best {rank}")
    first = s.study.first_points()[:1] if s.study.final.label_of_first else []
    for params in first:
        setting = space.setting_id(params)
        label = s.study.final.label_of_first
        chosen[setting] = (params, f"{chosen[setting][1]}, {label}" if setting in chosen else str(label))
    names = {(row["setting"], row["seed"]): name for name, row in trials(s.rows, "final").items()}
    taken = set(names.values())
    free = (name for number in count() if (name := f"f{number:02d}") not in taken)
    finals = []
    for setting, (params, label) in chosen.items():
        for seed in s.study.final_seeds():
            name = names.get((setting, seed)) or next(free)
            finals.append(trial_of(s.study, name, "final", params, seed, label, s.reader))
    return finals


def candidates(s: Session) -> list[Row]:
    """Return the search records of the settings that are rerun over seeds, best first."""
    chosen = ranking(s.rows)
    if s.study.search.how.only_first:
        chosen += [row for row in trials(s.rows, "search").values() if row["status"] in ("diverged", "stopped")]
    return chosen[: s.study.final.top_k]


def _select(s: Session) -> None:
    """Rank the settings of the finals by the mean over seeds of the task's metric on validation, and record the ranking."""
    losses: dict[str, list[tuple[float, float]]] = {}
    settings: dict[str, Row] = {}
    for trial in final_trials(s):
        row = trials(s.rows, "final").get(trial.name)
        if row is not None and row["status"] == "complete" and (loss := objective(row)) is not None:
            losses.setdefault(trial.setting, []).append((loss, row["error_rate_percent"]))
            settings[trial.setting] = {"setting": trial.setting, "label": trial.label, "params": dict(trial.params)}
    means = {setting: [fmean(values) for values in zip(*pairs, strict=True)] for setting, pairs in losses.items()}
    chosen = [
        settings[setting] | {"objective_percent": loss, "error_rate_percent": error, "rank": rank}
        for rank, (setting, (loss, error)) in enumerate(sorted(means.items(), key=lambda pair: pair[1][0]), start=1)
    ]
    before = [row["settings"] for row in s.rows if row["event"] == "selection"]
    if chosen and (not before or before[-1] != chosen):
        s.scribe.write("selection", settings=chosen, k=s.study.final.top_k, seeds=list(s.study.final_seeds()))


def tests(s: Session) -> list[dict[str, Any]]:
    """Return the configurations that read the test split, once for every final, after all choices are made."""
    _select(s)
    done = _tested(s)
    complete = [t for t in final_trials(s) if trials(s.rows, "final").get(t.name, {}).get("status") == "complete"]
    todo = [trial for trial in complete if trial.name not in done]
    s.scribe.screen.expect("test", len(complete), len(complete) - len(todo))
    s.scribe.screen.begin("test", "reading the test split")
    common = {"phase": "test", "read_test": True}
    return [common | {"trial": trial.name, "params": dict(trial.params), "seed": trial.seed} for trial in todo]


def _tested(s: Session) -> dict[str, str]:
    """{tested final: id of the stage with its predictions}."""
    read = [row for row in s.rows if row["event"] == "evaluation" and row.get("split") == "test"]
    return {row["trial"]: row["stage_id"] for row in read}


def copy_predictions(s: Session) -> None:
    """Copy the test predictions of the finals into the run folder."""
    folder = s.run_dir / "predictions"
    folder.mkdir(exist_ok=True)
    for name, stage_id in _tested(s).items():
        target = folder / f"{name}-test.parquet"
        artifact = None if target.exists() else s.store.get(stage_id)
        if artifact is None and not target.exists():
            s.scribe.note(f"no test predictions of {name} in the run folder: the store {s.store.url} does not hold them")
        if artifact is not None:
            shutil.copyfile(artifact.path(PREDICTIONS), target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)


def prune(s: Session, last: bool = False) -> None:
    """Delete weights and states that are no longer needed, only those that this run computed, so that no other study loses any."""
    policy = s.study.final.keep_weights
    first = {space.setting_id(params) for params in s.study.first_points()[:1]} if s.study.final.label_of_first else set()
    best = {row["setting"] for row in candidates(s)}
    wanted = set() if last and policy == "none" else first | best
    computed = {row["stage_id"] for row in s.rows if row["event"] == "evaluation" and row.get("source") == "computed"}
    for row in [*trials(s.rows, "search").values(), *trials(s.rows, "final").values()]:
        name, status = row["stage_ids"][-1], row["status"]
        if name not in computed or (name, status) in s.scribe.pruned:
            continue
        weights = status == "complete" and policy != "all" and row["setting"] not in wanted
        state = status in OVER and status != "complete" and (last or row["setting"] not in first)  # a final may resume from it
        if weights or state:
            s.scribe.pruned.add((name, status))
            with suppress(StoreError, OSError):
                s.store.drop_files(name, [WEIGHTS]) if weights else s.store.drop_state(name)
