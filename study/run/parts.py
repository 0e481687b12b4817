"""The parts of a study, in their order. Each looks at the records and the store first: what was done before is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from analysis.records.metric import objective
from analysis.records.record_fields import BAG_OF_WORDS
from analysis.text.write_whole import write_whole
from study.cluster.machine_faults import StudyStopped, stops
from study.cluster.work import Ended, Placement, Work, bag_of_words, best_precision
from study.definition import space
from study.definition.paths import portable
from study.planning import plan as plans
from study.run import finals
from study.run.scribe import Row, TrialSpec, hours_spent, ranking, scored, trial_of
from study.run.session import Session
from study.run.to_records import to_records
from trainables.scores import predictions
from trainables.settings.execution import Execution
from trainables.settings.stages import Multitask
from trainables.stages.identity import Node
from trainables.stages.inputs import Inputs


def all_parts(s: Session) -> None:
    """Everything, in this order."""
    _resolve_precision(s)
    made = plans.plan(s.study, s.store, s.reader)
    s.scribe.write("plan", **made.as_record())
    s.scribe.screen.expect("search", made.trials)
    s.scribe.screen.expect("finals", made.finals)
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

    return ray.remote(num_cpus=s.layout.cpus, num_gpus=s.layout.gpus)(function).remote(*arguments)


def _resolve_precision(s: Session) -> None:
    """`auto` becomes what a worker of this study does best, once: a part of every stage's identity."""
    if s.study.precision != "auto":
        return
    import ray

    s.scribe.screen.begin("stages", "measuring arithmetic")
    found = ray.get(_task(s, best_precision, s.study.execution_for(keep_weights=True)))
    s.study = s.study.model_copy(update={"precision": found})
    write_whole(s.run_dir / "study.yaml", portable(s.study, s.run_dir).to_yaml())
    s.scribe.note(f"precision auto is {found} here")


def _baseline(s: Session) -> Any:
    """Start the bag of words, which runs beside what comes next."""
    if not s.study.baseline or any(row["event"] == "baseline" for row in s.rows):
        return None
    searched = any(path.endswith((".train_share", ".train_examples")) for path in s.study.space)
    return _task(s, bag_of_words, s.study.recipe_for(space.any_point(s.study.space, s.study.fixed), s.study.seed), searched)


def _record_baseline(s: Session, pending: Any) -> None:
    """Wait for the bag of words. A study does not die of its baseline, unless the machine is to blame."""
    import ray

    if pending is None:
        return
    try:
        with stops():
            found = ray.get(pending)
    except Exception as error:
        s.scribe.note(f"no bag of words: {_last_line(error)}")
        return
    given, folder = found["predictions"]["test"], s.run_dir / "predictions"
    folder.mkdir(exist_ok=True)
    target = s.reader.task(s.study.task, s.study.tasks[s.study.task])
    predictions.write(folder / f"{BAG_OF_WORDS}-test.parquet", target.test.labels, given, found["probabilities"]["test"])
    for split in ("validation", "test"):
        about = {"recipe": "bag of words", "task": s.study.task, "split": split}
        about |= {name: found.get(name) for name in ("c", "train_examples", "words", "seconds")}
        s.scribe.write("baseline", **(scored(found[split], "baseline") | about))


def _shared_stages(s: Session, trajectory: plans.Trajectory) -> None:
    """Run what is missing of a trajectory under Ray Train, with all that the cluster has; what failed is left to the trials.

    Raises StudyStopped where the machine failed.
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
    """Scores of each task at the end of a stage on several, by the names of this study."""
    if not isinstance(node.stage, Multitask) or not known.get("rows"):
        return None
    return Inputs(trajectory.recipe, s.reader).members(node.stage).named(known["rows"][-1]["by_task"])


def _train_shared(s: Session, trajectory: plans.Trajectory) -> tuple[dict[int, Row], str | None]:
    """({step: row}, why it failed)."""
    from study.cluster.trial import persistent, start

    layout = _stage_layout(s)
    name = f"{trajectory.name}-{trajectory.trajectory_id[:8]}"
    work = Work(name, trajectory.recipe, s.store.url, _execution(s, layout), trajectory.name, trajectory.milestones)
    rows: dict[int, Row] = {}
    s.scribe.screen.expect("stages", 1)
    try:
        for row in persistent(partial(start, work, layout, s.board), layout.retries, layout.patience_s):
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


def _stage_layout(s: Session) -> Placement:
    """Shared stages come alone and get the whole cluster."""
    workers, cpus = s.machine.all_for_one(s.layout.cpus, s.layout.gpus)
    return replace(s.layout, workers=workers, cpus=cpus, under_train=True)


def _execution(s: Session, layout: Placement | None = None) -> Execution:
    threads = int((layout or s.layout).cpus)
    return s.study.execution_for(keep_weights=True).model_copy(update={"threads": threads})


def _trials(s: Session) -> None:
    """Search until the budget is spent, then run the finals, then read their test split: one Tuner, the same warm processes."""
    from study.cluster.tune_adapters import InTurn, StopInSearch, TuneSearcher
    from study.search.early_stopping import Stopping
    from study.search.history import history
    from study.search.search import Search

    past = history(s.study, s.rows)
    stopping = Stopping(s.study.search.early_stopping, past)
    search = Search(s.study, past, s.run_dir / "optuna.journal")
    concurrent = s.machine.trials(s.study.resources)
    limit = None if s.study.budget.hours is None else time.monotonic() + 3600 * (s.study.budget.hours - hours_spent(s.rows))
    asked: dict[str, TrialSpec] = {}
    searcher = TuneSearcher(search, stopping, partial(_asked, s, asked), concurrent, partial(_out_of_time, limit))
    s.scribe.screen.parts["search"].done = sum(each.state is not None for each in past)
    for row in ranking(s.rows):
        s.scribe.screen.found(objective(row) or 0.0, row["trial"], row["params"])
    s.scribe.screen.begin("search", f"searching, {concurrent} at a time")
    in_turn = InTurn(searcher, [partial(finals.runs, s, asked), partial(finals.tests, s)], concurrent)
    _tune(s, in_turn, StopInSearch(stopping), to_records(s, in_turn, asked))


def _asked(s: Session, asked: dict[str, TrialSpec], number: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a trial that the search asks for."""
    from study.search.history import trial_name

    name = trial_name(number)
    label = s.study.label_of(dict(params)) or space.describe(dict(params))
    asked[name] = trial_of(s.study, name, "search", params, s.study.seed, label, s.reader)
    return {"phase": "search", "params": dict(params), "seed": s.study.seed}


def _out_of_time(limit: float | None) -> bool:
    return limit is not None and time.monotonic() > limit


def _tune(s: Session, searcher: Any, scheduler: Any, callback: Any) -> None:
    """Run what the searcher hands out in warm actors, through Ray Tune."""
    from ray import tune

    from study.cluster.trial import TrialActor, resources

    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # it misses result files
    given = {"study": s.study, "store": s.store.url, "layout": s.layout, "board": s.board, "execution": _execution(s)}
    tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialActor, **given), resources(s.layout)),
        tune_config=tune.TuneConfig(reuse_actors=True, search_alg=searcher, scheduler=scheduler, num_samples=-1),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((s.run_dir / "ray").absolute()),
            verbose=0,
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
