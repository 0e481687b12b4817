"""Run the parts of a study in order. Every part first reads the records and the store, so that finished work is not repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.records.metric import objective
from analysis.records.record_fields import BAG_OF_WORDS
from analysis.text.write_whole import write_whole
from study.cluster.machine_faults import StudyStopped, stops
from study.cluster.work import Ended, Placement, Work, bag_of_words, best_precision
from study.definition import space
from study.definition.paths import portable
from study.planning import plan as plans
from study.run import finals, inputs
from study.run.scribe import Row, TrialSpec, hours_spent, ranking, scored, trial_of
from study.run.session import Session
from study.run.to_records import to_records
from trainables.data.splits import SPLITS
from trainables.scores import predictions
from trainables.settings.execution import Execution
from trainables.stages.inputs import Inputs
from trainables.stages.kinds import KINDS
from trainables.stages.node import Node

if TYPE_CHECKING:
    from study.search.search import Search


def all_parts(s: Session) -> None:
    """Run all parts, in this order."""
    where = _say_where(s)
    _resolve_precision(s)
    plan = plans.plan(s.study, s.store, s.reader)
    s.scribe.write("plan", **plan.as_record(), computes_on=where, machine=s.machine.hardware)
    s.scribe.screen.expect("search", plan.trials)
    s.scribe.screen.expect("finals", plan.finals)
    pending = _baseline(s)
    for trajectory in plans.trajectories(s.study, s.reader):
        _shared_stages(s, trajectory)
    _record_baseline(s, pending)
    _trials(s)
    finals.copy_predictions(s)
    finals.prune(s, last=True)
    s.clear_away()


def _task(s: Session, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a function as a Ray task with the resources of one worker."""
    import ray

    return ray.remote(num_cpus=s.placement.cpus, num_gpus=s.placement.gpus)(function).remote(*arguments)


def _say_where(s: Session) -> str:
    """Show what this session computes on, and return it; other devices than in the last session are a notice."""
    where, devices = s.machine.computes_on(s.study.resources), s.machine.devices(s.study.resources)
    before = next((row["computes_on"] for row in reversed(s.rows) if row["event"] == "plan" and row.get("computes_on")), where)
    s.scribe.screen.say(f"computes on {where}")
    if not before.startswith(f"{devices},"):
        kept = "" if s.study.precision == "auto" else f"; precision stays {s.study.precision}"
        s.scribe.note(f"computes on {devices}; the last session computed on {before.partition(',')[0]}{kept}")
    return where


def _resolve_precision(s: Session) -> None:
    """Replace `precision: auto` by a worker's best arithmetic, once: it is part of every stage's identity."""
    if s.study.precision != "auto":
        return
    import ray

    s.scribe.screen.begin("stages", "measuring arithmetic")
    precision = ray.get(_task(s, best_precision, s.study.execution_for(keep_weights=True)))
    s.study = s.study.model_copy(update={"precision": precision})
    write_whole(s.run_dir / "study.yaml", portable(s.to_resume, s.run_dir).to_yaml())
    s.scribe.note(f"precision auto is {precision} here")


def _baseline(s: Session) -> Any:
    """Start the bag of words, which runs in parallel to the next parts."""
    if not s.study.baseline or any(row["event"] == "baseline" for row in s.rows):
        return None
    searched = any(path.endswith((".train_share", ".train_examples")) for path in s.study.space)
    return _task(s, bag_of_words, s.study.recipe_for(space.any_point(s.study.space, s.study.fixed), s.study.seed), searched)


def _record_baseline(s: Session, pending: Any) -> None:
    """Wait for the bag of words and record it. If it fails, a notice is recorded, unless the machine failed."""
    import ray

    if pending is None:
        return
    try:
        with stops():
            result = ray.get(pending)
    except Exception as error:
        s.scribe.note(f"no bag of words: {_last_line(error)}")
        return
    predicted, folder = result["predictions"]["test"], s.run_dir / "predictions"
    folder.mkdir(exist_ok=True)
    target = s.reader.task(s.study.task, s.study.tasks[s.study.task])
    inputs.check_read(s.study, s.rows, "the bag of words", result["read"], [target.digest(split) for split in SPLITS])
    predictions.write(folder / f"{BAG_OF_WORDS}-test.parquet", target.test.labels, predicted, result["probabilities"]["test"])
    for split in ("validation", "test"):
        fields = {"recipe": "bag of words", "task": s.study.task, "split": split}
        fields |= {name: result.get(name) for name in ("c", "train_examples", "words", "seconds")}
        s.scribe.write("baseline", **(scored(result[split], "baseline") | fields))


def _shared_stages(s: Session, trajectory: plans.Trajectory) -> None:
    """Run the missing stages of a trajectory under Ray Train on the whole cluster; stages that fail are left to the trials.

    Raises StudyStopped if the machine failed.
    """
    missing = {node.stage_id for node in trajectory.missing(s.store)}
    rows: dict[int, Row] = {}
    reason, began = None, time.monotonic()
    if missing:
        s.scribe.screen.begin("stages", f"{trajectory.name}: {trajectory.milestones[-1]} steps under Ray Train")
        rows, reason = _train_shared(s, trajectory)
    recorded = {(row["stage_id"], row["status"]) for row in s.rows if row["event"] == "stage"}
    for node in trajectory.nodes:
        artifact = s.store.get(node.stage_id)
        status = "failed" if artifact is None else "computed" if node.stage_id in missing else "loaded"
        known = artifact.manifest if artifact is not None else rows.get(node.steps, {})
        if not recorded & {(node.stage_id, "computed"), (node.stage_id, status)}:
            spent = time.monotonic() - began if status == "computed" else 0.0
            s.scribe.stage(node, status, known, spent, reason, _by_task(s, trajectory, node, known))


def _by_task(s: Session, trajectory: plans.Trajectory, node: Node, known: Row) -> Row | None:
    """Scores of every task at the end of a multi-task stage, by the names of this study; None for other stages."""
    if not known.get("rows"):
        return None
    inputs = Inputs(trajectory.recipe, s.reader)
    by_task: Row | None = KINDS[node.stage.kind].row(node.stage, inputs, known["rows"][-1]).get("by_task")
    return by_task


def _train_shared(s: Session, trajectory: plans.Trajectory) -> tuple[dict[int, Row], str | None]:
    """Run a trajectory; return ({step: row}, the reason of a failure or None)."""
    from study.cluster.trial import persistent, start

    placement = _stage_placement(s)
    name = f"{trajectory.name}-{trajectory.trajectory_id[:8]}"
    work = Work(name, trajectory.recipe, s.store.url, _execution(s, placement), trajectory.name, trajectory.milestones)
    rows: dict[int, Row] = {}
    s.scribe.screen.expect("stages", 1)
    try:
        for row in persistent(partial(start, work, placement, s.board), placement.retries, placement.patience_s):
            s.scribe.shared(row)
            rows[row["step"]] = row
    except Ended as end:
        print(end.details, flush=True)
        if end.status == "halted":
            raise StudyStopped(end.reason, end.advice) from end
        return rows, end.reason
    finally:
        s.scribe.screen.ended("stage", "complete", "stages")
    return rows, None


def _stage_placement(s: Session) -> Placement:
    """Return the placement of shared stages, which run alone on the whole cluster."""
    workers, cpus, gpus = s.machine.all_for_one(s.placement.cpus, s.placement.gpus)
    return replace(s.placement, workers=workers, cpus=cpus, gpus=gpus, under_train=True)


def _execution(s: Session, placement: Placement | None = None) -> Execution:
    placement = placement or s.placement
    own = {"threads": int(placement.cpus), "gpu_share": min(1.0, placement.gpus) or 1.0}
    return s.study.execution_for(keep_weights=True).model_copy(update=own)


def _trials(s: Session) -> None:
    """Search until the budget is spent, run the finals, read their test split: in one Tuner with the same warm processes."""
    from study.cluster.tune_adapters import InTurn, StopInSearch, TuneSearcher
    from study.search.early_stopping import Stopping
    from study.search.history import history
    from study.search.search import Search

    past = history(s.study, s.rows)
    stopping = Stopping(s.study.search.early_stopping, past)
    search = Search(s.study, past, s.run_dir / "optuna.journal")
    concurrent = s.machine.trials(s.study.resources)
    limit = None if s.study.budget.hours is None else time.monotonic() + 3600 * (s.study.budget.hours - hours_spent(s.rows))
    proposed: dict[str, TrialSpec] = {}
    searcher = TuneSearcher(
        search, stopping, partial(_configuration, s, proposed, search), concurrent, partial(_out_of_time, limit)
    )
    s.scribe.screen.parts["search"].done = sum(trial.state is not None for trial in past)
    for row in ranking(s.rows):
        s.scribe.screen.found(objective(row) or 0.0, row["trial"], row["params"])
    s.scribe.screen.begin("search", f"searching, {concurrent} at a time")
    in_turn = InTurn(searcher, [partial(finals.runs, s, proposed), partial(finals.tests, s)], concurrent)
    _tune(s, in_turn, StopInSearch(stopping), to_records(s, in_turn, proposed))


def _configuration(
    s: Session, trials: dict[str, TrialSpec], search: Search, number: int, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Configuration of a trial that the search proposes; the trial is added to `trials`, and described in the journal."""
    from study.search.history import trial_name

    name = trial_name(number)
    label = s.study.label_of(dict(params)) or space.describe(dict(params))
    trials[name] = trial_of(s.study, name, "search", params, s.study.seed, label, s.reader)
    search.describe(number, {"label": label, "stage_ids": list(trials[name].stage_ids)})
    return {"phase": "search", "params": dict(params), "seed": s.study.seed}


def _out_of_time(limit: float | None) -> bool:
    return limit is not None and time.monotonic() > limit


def _tune(s: Session, searcher: Any, scheduler: Any, callback: Any) -> None:
    """Run the searcher's trials in warm actors, through Ray Tune."""
    from ray import tune

    from study.cluster.trial import TrialActor, resources
    from study.cluster.tune_adapters import reporter

    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # it warns about missing result files
    board = s.board if s.placement.under_train else None
    parameters = {"study": s.study, "store": s.store.url, "placement": s.placement, "board": board, "execution": _execution(s)}
    tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialActor, **parameters), resources(s.placement)),
        tune_config=tune.TuneConfig(reuse_actors=True, search_alg=searcher, scheduler=scheduler, num_samples=-1),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((s.run_dir / "ray").absolute()),
            verbose=0,
            progress_reporter=reporter(),
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
