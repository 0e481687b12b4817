"""A unit of work that Ray can send, and the functions that call the training loop."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cluster.machine_faults import fault_of, one_line
from trainables.data.splits import SPLITS
from trainables.encoder.process_memory import lasting
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe

if TYPE_CHECKING:
    from trainables.stages.inputs import Reader

Row = dict[str, Any]
Rows = Generator[Row, None, None]


@dataclass(frozen=True)
class Work:
    """A recipe to run (up to the stage `last`, whose `milestones` are stored) and its execution settings."""

    name: str
    recipe: Recipe
    store: str
    execution: Execution
    last: str | None = None
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where work is computed: by workers under Ray Train, or in this process."""

    workers: int
    cpus: float
    gpus: float
    under_train: bool
    storage: str
    """Folder or URL that all nodes see, for the files of Ray Train."""
    retries: int = 1
    """Number of restarts after a failure, from the last saved state."""
    patience_s: float = 0.0
    """Seconds for which work is restarted after a failure of the machine that may pass."""


class Ended(Exception):
    """Raised when work ends early: status diverged, failed, or halted by a failure of the machine; the reason in one line.

    `details` is the traceback, `where` the line of code, `advice` how to repair the machine; `passing`: it may recover by
    itself.
    """

    def __init__(
        self, status: str, reason: str, details: str = "", where: str = "", advice: str = "", passing: bool = False
    ) -> None:
        super().__init__(status, reason, details, where, advice, passing)
        self.status, self.reason, self.details = status, reason, details
        self.where, self.advice, self.passing = where, advice, passing


def ended(error: BaseException) -> Ended:
    """Convert any exception of the training loop to an `Ended`, which the records can hold."""
    if isinstance(error, Ended):
        return error
    stages = [note for note in getattr(error, "__notes__", ()) if note.startswith("stage ")]
    reason = one_line(error) + "".join(f" ({stage})" for stage in stages[:1])
    details, where = "".join(traceback.format_exception(error)), _where(error)
    if type(error).__name__ == "Diverged":
        return Ended("diverged", reason, details, where)
    if fault := fault_of(error):
        return Ended("halted", reason, details, where, fault.advice, fault.passing)
    return Ended("failed", reason, details, where)


def _where(error: BaseException) -> str:
    """The innermost line of our own code in an error's traceback: `trainables/training/loop.py, line 120`."""
    root = Path(__file__).parents[2]
    ours = [root / package for package in ("trainables", "study", "analysis")]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(package in Path(frame.filename).parents for package in ours)
    ]
    return f"{Path(frames[-1].filename).relative_to(root)}, line {frames[-1].lineno}" if frames else ""


def here(work: Work, reader: Reader | None = None) -> Rows:
    """Yield the rows of the work, computed in this process, whose `reader` may have read its data before."""
    from trainables.store.store import Store

    with lasting():
        from trainables.stages import run_recipe

    yield from run_recipe.run(
        work.recipe, Store(work.store), work.execution, last=work.last, milestones=work.milestones, reader=reader
    )


def best_precision(execution: Execution) -> str:
    """Return the best arithmetic of this worker: float32, bfloat16 or float16."""
    from trainables.training import precision

    return str(precision.resolve("auto", execution.device))


def bag_of_words(recipe: Recipe, searched: bool = False) -> Row:
    """Compute the bag-of-words baseline on the recipe's target task, tuned by its metric, from as many texts as fine-tuning has.

    From all texts if their number is `searched`. `read` are the digests of the splits that it read.
    """
    from analysis.records.metric import METRICS
    from trainables.scores.bag_of_words import bag_of_words
    from trainables.settings.stages import Finetune
    from trainables.stages.inputs import Inputs

    inputs, stage = Inputs(recipe), recipe.stages[-1]
    assert isinstance(stage, Finetune)
    few = stage.train_share < 1 or stage.train_examples is not None
    train = inputs.train_split(stage, recipe.seed) if few and not searched else None
    row = bag_of_words(inputs.target, METRICS[recipe.tasks[recipe.task].measured_by].loss, train)
    return dict(row) | {"read": [inputs.target.digest(split) for split in SPLITS]}


def read_test(work: Work, reader: Reader | None = None) -> Row:
    """Return the scores of a finished recipe on the test split."""
    from trainables.stages.run_recipe import evaluate_test
    from trainables.store.store import Store

    return evaluate_test(work.recipe, Store(work.store), work.execution, reader)


def tested(work: Work, placement: Placement, reader: Reader) -> Rows:
    """Yield the test scores of a finished trial, computed here or, if this process has no CPUs and GPUs, in a task that has."""
    if not placement.under_train:
        yield read_test(work, reader)
        return
    import ray

    # By default a task would be held to this actor's placement group, which has no CPU.
    task = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, scheduling_strategy="DEFAULT")(read_test)
    yield ray.get(task.remote(work))
