"""The parts of a study, in their order. Each looks at the records and the store first: what was done before is not done again."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from study import finals, space
from study import plan as plans
from study.machine_faults import StudyStopped, alike, fault_of, said, stops
from study.metric import objective
from study.paths import portable
from study.record import BAG_OF_WORDS
from study.scribe import Row, Scribe, Trial, hours_spent, ranking, scored, trial_of, trials
from study.settings import Study
from study.work import Ended, Layout, Work, bag_of_words, best_precision
from study.workers import Machine
from trainables import predictions
from trainables.config import Execution
from trainables.data import load_task
from trainables.garbage import RAY
from trainables.identity import Node, members_of
from trainables.stages import Multitask
from trainables.store import Store

if TYPE_CHECKING:
    from study.tune_adapters import InTurn


@dataclass
class Session:
    """One sitting at a study, on a Ray that runs: what every part needs."""

    study: Study
    run_dir: Path
    store: Store
    scribe: Scribe
    machine: Machine
    layout: Layout
    board: Any

    @property
    def rows(self) -> list[Row]:
        """All records so far."""
        return self.scribe.rows

    def clear_away(self) -> None:
        """Remove what Ray wrote; nothing of it is read again."""
        shutil.rmtree(self.run_dir / "ray", ignore_errors=True)
        if self.layout.storage.startswith(self.store.url):
            with suppress(OSError):
                self.store.files.remove(f"{RAY}/{self.layout.storage.rpartition('/')[2]}")


def all_parts(s: Session) -> None:
    """Everything, in this order."""
    _resolve_precision(s)
    made = plans.plan(s.study, s.store)
    s.scribe.write("plan", **made.as_record())
    s.scribe.screen.expect("search", made.trials)
    s.scribe.screen.expect("finals", made.finals)
    pending = _baseline(s)
    for trajectory in plans.trajectories(s.study):
        _shared_stages(s, trajectory)
    _record_baseline(s, pending)
    _trials(s)
    finals.copy_predictions(s)
    finals.prune(s, last=True)
    s.clear_away()


def session(study: Study, run_dir: Path, store: Store, scribe: Scribe, machine: Machine) -> Session:
    """A sitting on the Ray that runs."""
    import ray

    from study.switchboard import Switchboard

    given = study.resources
    under_train = given.execution == "train" or (given.execution == "auto" and given.workers > 1)
    # One node: the run folder. Several: what all of them see is the store.
    several = len(machine.nodes) > 1
    storage = f"{store.url}/{RAY}/{uuid4().hex}" if several else str((run_dir / "ray").absolute())
    layout = Layout(given.workers, given.cpus, given.gpus, under_train, storage, 1, given.patience_seconds)
    board = ray.remote(num_cpus=0)(Switchboard).remote()
    return Session(study, run_dir, store, scribe, machine, layout, board)


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
    target = load_task(s.study.task, s.study.tasks[s.study.task])
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
            s.scribe.stage(node, status, known, spent, reason, _by_task(trajectory, node, known))


def _by_task(trajectory: plans.Trajectory, node: Node, known: Row) -> Row | None:
    """Scores of each task at the end of a stage on several, by the names of this study."""
    if not isinstance(node.stage, Multitask) or not known.get("rows"):
        return None
    return members_of(trajectory.recipe, node.stage).named(known["rows"][-1]["by_task"])


def _train_shared(s: Session, trajectory: plans.Trajectory) -> tuple[dict[int, Row], str | None]:
    """({step: row}, why it failed)."""
    from study.trial import persistent, start

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


def _stage_layout(s: Session) -> Layout:
    """Shared stages come alone and get the whole cluster."""
    workers, cpus = s.machine.all_for_one(s.layout.cpus, s.layout.gpus)
    return replace(s.layout, workers=workers, cpus=cpus, under_train=True)


def _execution(s: Session, layout: Layout | None = None) -> Execution:
    threads = int((layout or s.layout).cpus)
    return s.study.execution_for(keep_weights=True).model_copy(update={"threads": threads})


def _trials(s: Session) -> None:
    """Search until the budget is spent, then run the finals, then read their test split: one Tuner, the same warm processes."""
    from study.search import Search, Stopping, history
    from study.tune_adapters import InTurn, StopInSearch, TuneSearcher

    past = history(s.study, s.rows)
    stopping = Stopping(s.study.search.early_stopping, past)
    search = Search(s.study, past, s.run_dir / "optuna.journal")
    concurrent = s.machine.trials(s.study.resources)
    limit = None if s.study.budget.hours is None else time.monotonic() + 3600 * (s.study.budget.hours - hours_spent(s.rows))
    asked: dict[str, Trial] = {}
    searcher = TuneSearcher(search, stopping, partial(_asked, s, asked), concurrent, partial(_out_of_time, limit))
    s.scribe.screen.parts["search"].done = sum(each.state is not None for each in past)
    for row in ranking(s.rows):
        s.scribe.screen.found(objective(row) or 0.0, row["trial"], row["params"])
    s.scribe.screen.begin("search", f"searching, {concurrent} at a time")
    in_turn = InTurn(searcher, [partial(finals.runs, s, asked), partial(finals.tests, s)], concurrent)
    _tune(s, in_turn, StopInSearch(stopping), to_records(s, in_turn, asked))


def _asked(s: Session, asked: dict[str, Trial], number: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a trial that the search asks for."""
    from study.search import trial_name

    name = trial_name(number)
    label = s.study.label_of(dict(params)) or space.describe(dict(params))
    asked[name] = trial_of(s.study, name, "search", params, s.study.seed, label)
    return {"phase": "search", "params": dict(params), "seed": s.study.seed}


def _out_of_time(limit: float | None) -> bool:
    return limit is not None and time.monotonic() > limit


def _tune(s: Session, searcher: Any, scheduler: Any, callback: Any) -> None:
    """Run what the searcher hands out in warm actors, through Ray Tune."""
    from ray import tune

    from study.trial import TrialActor, resources

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


def to_records(s: Session, searcher: InTurn, asked: Mapping[str, Trial]) -> Any:
    """The Tune callback through which results become records. The driver alone writes them."""
    from ray import tune

    class ToRecords(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if not trial.config.get("read_test"):
                s.scribe.starts(asked[trial.config["trial"]])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            name = trial.config["trial"]
            for row in result["rows"]:
                if trial.config.get("read_test"):
                    s.scribe.tested(asked[name], row)
                else:
                    s.scribe.evaluated(name, row)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            result = trial.last_result or {}
            status = "stopped" if result.get("status") in (None, "running") else result["status"]
            self._ends(trial.config, status, "early stopping" if status == "stopped" else result.get("reason"), result)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            name = trial.config["trial"]
            if searcher.goes_on(name):
                s.scribe.again(name)
            else:
                self._ends(trial.config, *_death(trial.get_pickled_error()))
            s.board.sweep.remote(list(s.scribe.running))

        def _ends(self, config: dict[str, Any], status: str, reason: str | None, result: dict[str, Any]) -> None:
            if not config.get("read_test"):
                s.scribe.starts(asked[config["trial"]])  # its process may have died before it began
                if status != "halted":
                    s.scribe.ends(config["trial"], status, reason, result.get("details"), result.get("where"))
                    finals.prune(s)
                    _stop_if_alike(s)
                else:
                    s.scribe.reopens(trials(s.rows, config["phase"])[config["trial"]], reason, result.get("details"))
            elif status == "failed":
                s.scribe.note(f"no test scores of {config['trial']}: {reason}")
            if status == "halted":
                raise StudyStopped(str(reason), result.get("advice") or "")

        def __reduce__(self) -> tuple[Any, ...]:
            return object, ()  # Tune pickles its callbacks, and nothing reads that

    return ToRecords()


def _death(error: BaseException | None) -> tuple[str, str, dict[str, Any]]:
    """(status, reason, more) of a trial whose process died again and again."""
    reason = "its process died again and again"
    if error is not None and (fault := fault_of(error)):
        return "halted", f"{reason}: {said(error)}", {"advice": fault.advice}
    return "failed", reason, {}


def _stop_if_alike(s: Session) -> None:
    """Raises StudyStopped where trials fail alike from their beginning; they count as unfinished then, not as failed."""
    same = alike(s.rows)
    for row in same:
        s.scribe.reopens(row, row["reason"])
    if same:
        names = " and ".join(row["trial"] for row in same)
        reason = f"{names} failed alike at their beginning, and no trial has come to a validation yet: {same[0]['reason']}"
        raise StudyStopped(reason, f"the whole traceback is in {s.run_dir / 'study.log'}")


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once, never half."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
