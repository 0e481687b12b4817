"""A study from its first record to its last. What was done before, in this run or by any study on the same store, is not done again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import plan as plans
from study import record, space
from study.config import Study, load_study
from study.lock import RunLock
from study.scribe import OVER, Row, Scribe, Trial, hours_spent, ranking, trials
from study.screen import Screen
from study.workers import Interrupts, Machine, quiet, ray_session
from trainables import identity
from trainables.config import ConfigError
from trainables.store import Store

if TYPE_CHECKING:
    from study.trial import Layout

PACKAGES = ("torch", "ray", "optuna", "transformers", "finetune-study")
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions-test.parquet"
DEATHS = 2
"""How often a trial whose process was killed is begun again in a new one."""


@dataclass(frozen=True)
class Outcome:
    """How a study ended: whether there is a result, and what to print."""

    has_result: bool
    text: str


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
    say: Callable[[str], None]

    @property
    def rows(self) -> list[Row]:
        """All records so far."""
        return self.scribe.rows


def run(study: Study, run_dir: Path, store: str | None = None, address: str | None = None) -> Outcome:
    """Run a study, or go on with it. Returns at once where there is nothing left to do.

    Raises ConfigError for wrong input, RunInUse where another driver has the folder, KeyboardInterrupt after SIGINT or SIGTERM.
    """
    earlier = _earlier(run_dir, study)
    if earlier is not None and _finished(run_dir, study, earlier):
        return _outcome(run_dir, f"{study.name} is finished; nothing was run again")
    artifacts = Store(store or study.store or Store.default().url)
    _make(run_dir)
    with RunLock(run_dir), Interrupts() as interrupts, quiet(run_dir / "study.log") as terminal:
        study = _resolved(run_dir, study)
        rows, problems = record.read(run_dir / "records.jsonl")
        with Screen(terminal, study.name) as screen:
            scribe = Scribe(record.Records(run_dir / "records.jsonl", study.name), screen, rows)
            _write(run_dir / "study.yaml", study.to_yaml())
            return _sitting(study, run_dir, artifacts, scribe, address, interrupts, problems)


def _sitting(
    study: Study, run_dir: Path, store: Store, scribe: Scribe, address: str | None, interrupts: Interrupts, problems: list[str]
) -> Outcome:
    """Start Ray, do what is left, write how it ended."""
    began = time.monotonic()
    about: dict[str, Any] = {"versions": versions(), "commit": commit(), "config_digest": study.digest()}
    about["device"] = "cuda" if study.resources.gpus else "cpu"
    try:
        scribe.write("study", status="resumed" if scribe.records.session else "started", **about)
        for problem in problems:
            scribe.write("notice", text=problem, source="records")
        with ray_session(study.resources, address) as machine:
            interrupts.install()
            _all_parts(_session(study, run_dir, store, scribe, machine))
        shutil.rmtree(run_dir / "ray", ignore_errors=True)
        scribe.write("study", status="finished", seconds=time.monotonic() - began, note=_fingerprint(scribe_study(run_dir)), **about)
    except KeyboardInterrupt:
        scribe.write("study", status="interrupted", seconds=time.monotonic() - began, **about)
        raise
    return _outcome(run_dir, f"{study.name} finished")


def _all_parts(s: Session) -> None:
    """The parts of a study in their order."""
    _resolve_precision(s)
    _plan(s)
    _baseline(s)
    _shared_stages(s)
    _search(s)
    _finals(s)
    _select(s)
    _test(s)
    _prune(s, last=True)
    s.scribe.screen.begin("test", "writing the report")
    _report(s.run_dir)


# Opening a run folder ----------------------------------------------------------------------------------------------------------------


def _earlier(run_dir: Path, study: Study) -> Study | None:
    """The study that the folder holds, if any. Raises ConfigError where it is another one, or where the folder is no run folder."""
    if not (run_dir / "study.yaml").exists():
        if run_dir.exists() and (not run_dir.is_dir() or set(os.listdir(run_dir)) - {"lock.json", "study.log"}):
            raise ConfigError([f"--out {run_dir}: exists and is no run folder; give another"])
        return None
    earlier = load_study(run_dir / "study.yaml")
    differences = earlier.differences(_with_precision(study, earlier))
    if differences:
        raise ConfigError([f"--out {run_dir}: the folder of another study; give another folder, or undo:", *differences])
    return earlier


def _with_precision(study: Study, earlier: Study) -> Study:
    """`precision: auto` as the run resolved it when it began."""
    return study.model_copy(update={"precision": earlier.precision}) if study.precision == "auto" else study


def _resolved(run_dir: Path, study: Study) -> Study:
    earlier = _earlier(run_dir, study)
    return study if earlier is None else _with_precision(study, earlier)


def _fingerprint(study: Study) -> str:
    """Names what a finished study has done: a raised budget, more seeds or a baseline are something left to do."""
    data = study.canonical()
    done = {key: data[key] for key in ("budget", "final", "baseline")}
    return "done: " + json.dumps(done, sort_keys=True)


def scribe_study(run_dir: Path) -> Study:
    """The study as the run folder has it."""
    return load_study(run_dir / "study.yaml")


def _finished(run_dir: Path, study: Study, earlier: Study) -> bool:
    rows, _ = record.read(run_dir / "records.jsonl")
    last = [row for row in rows if row.get("event") == "study"][-1:]
    wanted = _fingerprint(_with_precision(study, earlier))
    return bool(last) and last[0]["status"] == "finished" and last[0].get("note") == wanted


def _make(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise ConfigError([f"--out {run_dir}: cannot be written: {error.strerror}"]) from None


def _write(path: Path, text: str) -> None:
    """Replace a file at once, never half."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


# The parts ---------------------------------------------------------------------------------------------------------------------------


def _session(study: Study, run_dir: Path, store: Store, scribe: Scribe, machine: Machine) -> Session:
    import ray
    from study.trial import Layout, Switchboard

    given = study.resources
    under_train = given.execution == "train" or (given.execution == "auto" and given.workers > 1)
    # One node: the run folder. Several: what all of them see is the store.
    storage = str((run_dir / "ray").absolute()) if machine.nodes == 1 else f"{store.url}/ray"
    layout = Layout(given.workers, given.cpus, given.gpus, under_train, storage, 1)
    board = ray.remote(num_cpus=0)(Switchboard).remote()
    return Session(study, run_dir, store, scribe, machine, layout, board, scribe.screen.say)


def _task(s: Session, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a function as a Ray task with the resources of one worker."""
    import ray

    return ray.remote(num_cpus=s.layout.cpus, num_gpus=s.layout.gpus)(function).remote(*arguments)


def _resolve_precision(s: Session) -> None:
    """`auto` becomes what a worker of this study does best, once: a part of every stage's identity."""
    if s.study.precision != "auto":
        return
    import ray
    from study.trial import best_precision

    s.scribe.screen.begin("stages", "measuring arithmetic")
    found = ray.get(_task(s, best_precision, s.study.execution_for(keep_weights=True)))
    s.study = s.study.model_copy(update={"precision": found})
    _write(s.run_dir / "study.yaml", s.study.to_yaml())
    s.scribe.write("notice", text=f"precision auto is {found} here", source="launch")


def _baseline(s: Session) -> Any:
    """Start the bag of words, which runs beside what comes next."""
    from study.trial import bag_of_words

    if not s.study.baseline or any(row["event"] == "baseline" for row in s.rows):
        return None
    return _task(s, bag_of_words, s.study.recipe_for(_any_params(s.study), s.study.seed))


def _record_baseline(s: Session, pending: Any) -> None:
    """Wait for the bag of words. A study does not die of its baseline."""
    import ray

    if pending is None:
        return
    try:
        found = ray.get(pending)
    except Exception as error:
        s.scribe.write("notice", text=f"no bag of words: {_last_line(error)}", source="baseline")
        return
    for split in ("validation", "test"):
        metrics = {key: value for key, value in found[split].items() if key in record.FIELDS["baseline"]}
        about = {"recipe": "bag of words", "task": s.study.task, "split": split, "c": found["c"], "seconds": found.get("seconds")}
        s.scribe.write("baseline", **(metrics | about))


def _shared_stages(s: Session, missing: Sequence[Any]) -> None:
    """Run the missing shared stages under Ray Train, with all that the cluster has, one trajectory after the other."""
    from study.trial import Ended, Work, persistent

    s.scribe.screen.expect("stages", len(missing))
    for shared in missing:
        *before, node = shared.nodes
        s.scribe.screen.begin("stages", f"{node.stage.name}: {node.steps} steps under Ray Train")
        work = Work(f"stage-{node.trajectory_id[:8]}", shared.recipe, s.store.url, _execution(s, _stage_layout(s)), node.stage.name, shared.milestones)
        began = time.monotonic()
        rows: dict[int, Row] = {}
        status, reason = "loaded", None
        try:
            for row in persistent(work, _stage_layout(s), s.board):
                s.scribe.shared(row)
                rows[row["step"]] = row
                status = "computed" if row.get("source") == "computed" else status
        except Ended as end:
            print(end.details, flush=True)
            status, reason = "failed", end.reason
        for milestone in shared.milestone_nodes:
            s.scribe.stage(milestone, status, rows.get(milestone.steps, {}), time.monotonic() - began, reason)


def _stage_layout(s: Session) -> Layout:
    """Shared stages come alone and get the whole cluster: every GPU, or every node's CPUs."""
    from study.trial import Layout

    gpus, nodes = s.layout.gpus, s.machine.nodes
    if gpus:
        return Layout(max(1, int(s.machine.gpus // gpus)), s.layout.cpus, gpus, True, s.layout.storage, s.layout.retries)
    return Layout(nodes, max(1, s.machine.cpus // nodes), 0, True, s.layout.storage, s.layout.retries)


def _execution(s: Session, layout: Layout | None = None) -> Execution:
    threads = int((layout or s.layout).cpus)
    return s.study.execution_for(keep_weights=True).model_copy(update={"threads": threads})


def _search(s: Session) -> None:
    """Ask, run, tell, until the budget is spent. Trials of earlier sessions are told from the records, unfinished ones come first."""
    from study.search import Search, Stopping, history, trial_name
    from study.trial import fits
    from study.tune_adapters import TuneAsha, TuneSearcher

    past = history(s.study, s.rows)
    search = Search(s.study, past, s.run_dir / "optuna.journal")
    over = [each for each in past if each.state is not None]
    s.scribe.screen.expect("search", s.study.budget.trials, len(over))
    for row in ranking(s.rows):
        s.scribe.screen.found(row["error_rate_percent"], row["trial"], row["params"])
    if search.exhausted:
        return
    stopping = Stopping(s.study.search.early_stopping, past)
    limit = None if s.study.budget.hours is None else time.monotonic() + 3600 * (s.study.budget.hours - hours_spent(s.rows))
    concurrent = fits(s.study.resources.concurrent, s.layout, s.machine.cpus, s.machine.gpus)
    asked: dict[str, Trial] = {}

    def config(number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        name = trial_name(number)
        asked[name] = _trial(s.study, name, "search", params, s.study.seed, space.describe(dict(params)))
        return {"params": dict(params), "seed": s.study.seed}

    searcher = TuneSearcher(search, stopping, config, concurrent, lambda: limit is not None and time.monotonic() > limit)
    s.scribe.screen.begin("search", f"searching, {concurrent} at a time")
    _tune(s, asked, {"search_alg": searcher, "scheduler": TuneAsha(stopping), "num_samples": -1})
    s.scribe.screen.expect("search", s.scribe.screen.parts["search"].done, s.scribe.screen.parts["search"].done)


def _tune(s: Session, asked: Mapping[str, Trial], tune_config: dict[str, Any]) -> None:
    """Run trials in warm actors through Ray Tune until there are no more."""
    from ray import tune
    from study.trial import TrialActor, resources

    given = {"study": s.study, "store": s.store.url, "layout": s.layout, "board": s.board, "execution": _execution(s)}
    tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialActor, **given), resources(s.layout)),
        tune_config=tune.TuneConfig(reuse_actors=True, **tune_config),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((s.run_dir / "ray").absolute()),
            verbose=0,
            callbacks=[to_records(s, asked)],
            failure_config=tune.FailureConfig(max_failures=DEATHS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


def to_records(s: Session, asked: Mapping[str, Trial]) -> Any:
    """The Tune callback through which results become records. The driver alone writes them."""
    from ray import tune

    class ToRecords(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            s.scribe.starts(asked[trial.config["trial"]])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            for row in result["rows"]:
                s.scribe.evaluated(trial.config["trial"], row)

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            s.scribe.again(trial.config["trial"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            result = trial.last_result or {}
            status = "stopped" if result.get("status") in (None, "running") else result["status"]
            reason = "early stopping" if status == "stopped" else result.get("reason")
            s.scribe.ends(trial.config["trial"], status, reason, result.get("details"))
            _prune(s)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            s.scribe.ends(trial.config["trial"], "failed", f"its process died {DEATHS + 1} times")
            s.board.close.remote(trial.config["trial"])
            s.board.free.remote(trial.config["trial"])

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks, and nothing reads that

    return ToRecords()


def _finals(s: Session) -> None:
    """The best settings and the first one over seeds. Seeds that the search has run are loaded from the store."""
    from study.trial import Given, fits

    done = trials(s.rows, "final")
    todo = [trial for trial in final_trials(s) if done.get(trial.name, {}).get("status") not in OVER]
    s.scribe.screen.expect("finals", len(final_trials(s)), len(final_trials(s)) - len(todo))
    if not todo:
        return
    s.scribe.screen.begin("finals", f"the best settings over seeds {', '.join(map(str, s.study.final_seeds()))}")
    given = Given([{"trial": trial.name, "params": dict(trial.params), "seed": trial.seed} for trial in todo])
    concurrent = fits(s.study.resources.concurrent, s.layout, s.machine.cpus, s.machine.gpus)
    _tune(s, {trial.name: trial for trial in todo}, {"search_alg": given, "num_samples": -1, "max_concurrent_trials": concurrent})


def final_trials(s: Session) -> list[Trial]:
    """Every (setting, seed) of the finals. A name belongs to a setting and a seed for good, also when more are asked for later."""
    chosen: dict[str, tuple[Mapping[str, Any], str]] = {}
    for rank, row in enumerate(ranking(s.rows)[: s.study.final.top_k], start=1):
        chosen[row["setting"]] = (row["params"], f"best {rank}")
    first = s.study.first_points()[:1] if s.study.final.label_of_first else []
    for params in first:
        setting = space.setting_id(params)
        label = s.study.final.label_of_first
        chosen[setting] = (params, f"{chosen[setting][1]}, {label}" if setting in chosen else str(label))
    names = {(row["setting"], row["seed"]): name for name, row in trials(s.rows, "final").items()}
    found = []
    for setting, (params, label) in chosen.items():
        for seed in s.study.final_seeds():
            name = names.setdefault((setting, seed), f"f{len(names):02d}")
            found.append(_trial(s.study, name, "final", params, seed, label))
    return found


def _trial(study: Study, name: str, phase: str, params: Mapping[str, Any], seed: int, label: str) -> Trial:
    recipe = study.recipe_for(dict(params), seed)
    stages = tuple(node.stage_id for node in identity.nodes(recipe))
    epochs = getattr(recipe.stages[-1], "epochs", 0)
    return Trial(name, phase, params, space.setting_id(dict(params)), seed, label, stages, epochs)


def _select(s: Session) -> None:
    """Order the settings of the finals by their mean validation error over the seeds."""
    errors: dict[str, list[float]] = {}
    about: dict[str, Row] = {}
    for trial in final_trials(s):
        row = trials(s.rows, "final").get(trial.name)
        if row is not None and row["status"] == "complete":
            errors.setdefault(trial.setting, []).append(row["error_rate_percent"])
            about[trial.setting] = {"setting": trial.setting, "label": trial.label, "params": dict(trial.params)}
    means = {setting: sum(values) / len(values) for setting, values in errors.items()}
    chosen = [
        about[setting] | {"error_rate_percent": mean, "rank": rank}
        for rank, (setting, mean) in enumerate(sorted(means.items(), key=lambda pair: pair[1]), start=1)
    ]
    before = [row["settings"] for row in s.rows if row["event"] == "selection"]
    if chosen and (not before or before[-1] != chosen):
        s.scribe.write("selection", settings=chosen, k=s.study.final.top_k, seeds=list(s.study.final_seeds()))


def _test(s: Session) -> None:
    """Read the test split once for every final, now that all choices are made; keep the predictions in the run folder."""
    import ray
    from study.trial import read_test

    done = {row["trial"] for row in s.rows if row["event"] == "evaluation" and row.get("split") == "test"}
    complete = [t for t in final_trials(s) if trials(s.rows, "final").get(t.name, {}).get("status") == "complete"]
    s.scribe.screen.expect("test", len(complete), len([trial for trial in complete if trial.name in done]))
    s.scribe.screen.begin("test", "reading the test split")
    pending = {}
    for trial in complete:
        if trial.name not in done:
            recipe = s.study.recipe_for(dict(trial.params), trial.seed)
            pending[_task(s, read_test, recipe, s.store.url, _execution(s))] = trial
    while pending:
        (ready, *_), _ = ray.wait(list(pending))
        trial = pending.pop(ready)
        try:
            row = ray.get(ready)
        except Exception as error:
            s.scribe.write("notice", text=f"no test scores of {trial.name}: {_last_line(error)}", source="launch")
            continue
        s.scribe.tested(trial, row)
    (s.run_dir / "predictions").mkdir(exist_ok=True)
    for trial in complete:
        _copy_predictions(s, trial)


def _copy_predictions(s: Session, trial: Trial) -> None:
    target = s.run_dir / "predictions" / f"{trial.name}-test.parquet"
    rows = [row for row in s.rows if row["event"] == "evaluation" and row.get("split") == "test" and row["trial"] == trial.name]
    artifact = s.store.get(rows[0]["stage_id"]) if rows and not target.exists() else None
    if artifact is not None:
        aside = target.with_suffix(".new")
        shutil.copyfile(artifact.path(PREDICTIONS), aside)
        aside.replace(target)


def _prune(s: Session, last: bool = False) -> None:
    """Drop fine-tuned weights that nobody will ask for: only those that this run made, so no other study loses its own."""
    keep_weights = s.study.final.keep_weights
    if keep_weights == "all":
        return
    first = {space.setting_id(params) for params in s.study.first_points()[:1]} if s.study.final.label_of_first else set()
    wanted = first | {row["setting"] for row in ranking(s.rows)[: s.study.final.top_k]}
    drop_all = last and keep_weights == "none"
    ended = [row for phase in ("search", "final") for row in trials(s.rows, phase).values() if row["status"] in OVER]
    keep = set() if drop_all else {row["stage_ids"][-1] for row in ended if row["setting"] in wanted}
    made = {row["stage_id"] for row in s.rows if row["event"] == "evaluation" and row.get("source") == "computed"}
    for name in {row["stage_ids"][-1] for row in ended} & made - keep - s.scribe.pruned:
        s.scribe.pruned.add(name)
        with suppress(OSError):
            s.store.drop_files(name, [WEIGHTS])


# How it ended ------------------------------------------------------------------------------------------------------------------------


def _report(run_dir: Path) -> Path:
    from analysis import report

    return Path(report.write(run_dir))


def _outcome(run_dir: Path, said: str) -> Outcome:
    """What is printed at the end."""
    table = run_dir / "report" / "table.md"
    if not table.exists():
        _report(run_dir)
    rows, _ = record.read(run_dir / "records.jsonl")
    tested = any(row["event"] == "evaluation" and row.get("split") == "test" for row in rows)
    if not tested:
        reasons = sorted({str(row.get("reason")) for row in trials(rows, "search").values() if row.get("reason")})
        said += "\nno trial came to a result" + "".join(f"\n  {reason}" for reason in reasons[:5])
    return Outcome(tested, f"{said}\n\n{table.read_text(encoding='utf-8')}\nreport: {run_dir / 'report' / 'report.html'}")


def log_failure(run_dir: Path) -> Path:
    """Write the current exception's traceback to the run's log, or to a new file where there is no run folder. Returns the file."""
    path = run_dir / "study.log"
    if not run_dir.is_dir():
        path = Path(tempfile.mkdtemp(prefix="study-")) / "study.log"
    with open(path, "a", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return path


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def versions() -> dict[str, str]:
    """Versions of what determines results."""
    import platform

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str | None:
    """Commit of this code, with + when the tree has changes; None outside a checkout."""
    here = Path(__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True, timeout=5).stdout
        return head + ("+" if changed.strip() else "")
    return None
