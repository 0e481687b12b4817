"""Stages in order: what is done is loaded, what is begun goes on, what is missing is computed, by one of all that ask."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from trainables.data.task_mixture import head_key
from trainables.encoder import lora
from trainables.encoder.load import model_state
from trainables.encoder.recompute import recompute_blocks
from trainables.scores.evaluate import measured, predict, write_predictions
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Multitask, Pretrain
from trainables.stages import finetune, jobs, multitask
from trainables.stages.identity import Node, milestone_id, nodes, recipe_name, test_id
from trainables.stages.inputs import Inputs, Reader
from trainables.stages.state_files import BEST, HostCopies, copy_weights, restore, saved, state_tensors, weights_of, write_state
from trainables.store.artifact_files import PREDICTIONS, WEIGHTS
from trainables.store.background import background
from trainables.store.store import Artifact, DamagedArtifact, Store
from trainables.training import energy
from trainables.training.loop import Job, Position, Row, train
from trainables.training.optimizer import rates
from trainables.training.precision import pick_device, resolve
from trainables.training.runtime import Runtime
from trainables.training.world import World, current

log = logging.getLogger(__name__)


def resolved(recipe: Recipe, execution: Execution, world: World) -> Recipe:
    """The recipe with `precision: auto` replaced by what the machine of rank 0 does best, on every rank."""
    precision = world.broadcast(resolve(recipe.precision, execution.device) if world.leads else recipe.precision)
    return recipe.model_copy(update={"precision": precision})


def run(
    recipe: Recipe,
    store: Store,
    execution: Execution | None = None,
    *,
    last: str | None = None,
    milestones: Sequence[int] = (),
    reader: Reader | None = None,
) -> Iterator[Row]:
    """Run a recipe's stages and yield a row per evaluation, those of finished stages and of earlier sittings included.

    `last` stops after the stage of that name; `milestones` are further steps at which to leave an artifact, where it
    is further pre-training; `reader` has read the data of earlier recipes. Under torch.distributed all ranks iterate together, and
    rank 0 writes. Rows hold what the field tables of the records name. Raises ConfigError before anything is computed where a
    package is missing.
    """
    execution = execution or Execution()
    if execution.threads:
        torch.set_num_threads(execution.threads)
    world = current()
    recipe = resolved(recipe, execution, world)
    ranks = {stage.name: stage.lora_rank for stage in recipe.stages if isinstance(stage, Finetune)}
    if faults := [f"{name}.{fault}" for name, rank in ranks.items() for fault in lora.missing(rank)]:
        raise ConfigError(faults)
    inputs = Inputs(recipe, reader or Reader())
    for node in nodes(inputs):
        wanted = {node.steps: node.stage_id}
        if node.stage.name == last and isinstance(node.stage, Pretrain):
            wanted |= {step: milestone_id(node.trajectory_id, step) for step in milestones if step}
        about = {
            "recipe": recipe_name(recipe),
            "stage": node.whole.kind,
            "stage_name": node.stage.name,
            "stage_id": node.stage_id,
            "task": recipe.task,
            "seed": node.seed,
            "precision": recipe.precision,
        }
        # Closed here and not by the garbage collector, which would lose the failure of a last write.
        with _named(node.stage.name), contextlib.closing(_stage(inputs, node, wanted, store, execution, world)) as rows:
            for row in rows:
                yield _told(inputs, node, row) | about
        if node.stage.name == last:
            return


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Adds to an error in which stage it came."""
    try:
        yield
    except Exception as error:
        error.add_note(f"stage {stage}")
        raise


def _told(inputs: Inputs, node: Node, row: Row) -> Row:
    """A stage's row in the words of this recipe."""
    if not isinstance(node.stage, Multitask):
        return row
    return multitask.told(row, inputs.members(node.stage), head_key(inputs.target))


def _stage(
    inputs: Inputs, node: Node, wanted: Mapping[int, str], store: Store, execution: Execution, world: World
) -> Generator[Row, None, None]:
    """Rows of one stage: from its artifacts if all are there, else computed under a claim on its trajectory."""
    needs = (WEIGHTS,) if node.part_of else ()  # of a scorer that another study fine-tuned for itself they may be gone
    missing = _missing(wanted, store, world, node.stage.kind, needs)
    while missing:
        with world.claimed(store, node.trajectory_id, needs) as owned:
            missing = _missing(wanted, store, world, node.stage.kind, needs)
            if missing and owned:
                yield from _compute(inputs, node, {step: wanted[step] for step in missing}, store, execution, world)
                return
    artifact = store.get(wanted[max(wanted)])
    assert artifact is not None, f"artifact {wanted[max(wanted)]} vanished from the store"
    for row in artifact.rows(node.stage.kind):
        yield row | {"source": "loaded"}


def _missing(wanted: Mapping[int, str], store: Store, world: World, kind: str, needs: Sequence[str]) -> list[int]:
    return world.broadcast(sorted(step for step, name in wanted.items() if world.leads and _rows(store, name, kind, needs) is None))


def _rows(store: Store, name: str, kind: str, needs: Sequence[str] = ()) -> list[Row] | None:
    """Rows of a finished stage; None where it is missing, or damaged and thereby missing from now on."""
    artifact = store.get(name, needs)
    with contextlib.suppress(DamagedArtifact):
        return artifact.rows(kind) if artifact is not None else None
    return None


def _compute(inputs: Inputs, node: Node, wanted: dict[int, str], store: Store, execution: Execution, world: World) -> Iterator[Row]:
    """Train the stage from its last state, or from its parent, through all wanted steps."""
    recipe, device = inputs.recipe, pick_device(execution.device)
    saves = execution.state_every_steps
    runtime = Runtime(
        device=device,
        world=world,
        autocast=recipe.precision == "bfloat16",
        micro_batch=execution.micro_batch,
        save_at=lambda step: bool(saves) and step % saves == 0,
        joules=_joules(device, execution),
    )
    parent = store.get(node.parent_id) if node.parent_id else None
    job = jobs.job_of(inputs, node, weights_of(parent) if parent else None, frozenset(wanted), store, runtime)
    if execution.gradient_checkpointing:
        recompute_blocks(job.model.encoder)
    notices = [*job.base.notices, *job.model.notices, *_task_notices(inputs, node)]
    for notice in notices:
        log.warning("%s", notice)
    rates_of_groups = rates(job.optimizer.param_groups)
    log.info("%s %s: learning rates %s", node.stage.kind, node.stage_id, rates_of_groups)
    about = {"source": "computed", "device": device_name(device), "group_rates": rates_of_groups, "notices": notices}
    at, best = restore(job, node.stage.kind, store, node.trajectory_id, min(wanted), world)
    copies, owns = HostCopies(), store.owns(node.trajectory_id)

    def save(at: Position) -> None:
        if not world.leads:
            return
        if at.rows and at.rows[-1]["step"] == at.step:
            at.rows[-1].update(about)
            if job.best and all(row[job.best] < at.rows[-1][job.best] for row in at.rows[:-1]):
                best.update({name: tensor.to("cpu", copy=True) for name, tensor in model_state(job.model).items()})
        writes.wait()  # `copies` are free again
        if at.step in wanted:
            with tempfile.TemporaryDirectory(dir=store.local_cache("writing")) as folder:
                _publish(job, recipe, node, wanted[at.step], at, store, execution, Path(folder), best)
        if at.step == job.steps:
            store.drop_state(node.trajectory_id)
        else:
            tensors = copies.of(state_tensors(job)) | ({BEST: dict(best)} if best else {})
            writes.start(partial(write_state, store, node.trajectory_id, asdict(at), tensors, owns))

    for row in at.rows:
        yield row | {"source": "loaded"}
    with background() as writes:
        for row in train(job, runtime, at, max(wanted), save):
            yield row | about


def _joules(device: torch.device, execution: Execution) -> energy.Counter:
    """The counter of a GPU that this process has to itself."""
    if device.type != "cuda" or not execution.whole_gpu:
        return energy.silent
    return energy.gpu(str(getattr(torch.cuda.get_device_properties(device), "uuid", "")))


def _task_notices(inputs: Inputs, node: Node) -> tuple[str, ...]:
    """Of the tasks that a stage is trained on; those of a corpus come with its job."""
    if isinstance(node.stage, Pretrain):
        return ()
    return inputs.members(node.stage).notices if isinstance(node.stage, Multitask) else inputs.target.notices


def _publish(
    job: Job,
    recipe: Recipe,
    node: Node,
    name: str,
    at: Position,
    store: Store,
    execution: Execution,
    folder: Path,
    best: Mapping[str, torch.Tensor],
) -> None:
    files = job.artifact_files(folder)
    if node.whole.kind != "finetune" or execution.keep_weights:
        files[WEIGHTS] = saved(best or model_state(job.model), folder / WEIGHTS)
    manifest = {
        "kind": node.stage.kind,
        "settings": node.stage.canonical(),
        "parent": node.parent_id,
        "step": at.step,
        "rows": at.rows,
        "tokens": at.tokens,
        "seconds": at.seconds,
        "energy_j": at.energy_j,
        "seed": node.seed,
        "precision": recipe.precision,
    }
    store.publish(name, manifest, files, move=True)


def evaluate_test(recipe: Recipe, store: Store, execution: Execution | None = None, reader: Reader | None = None) -> Row:
    """Scores of a finished recipe on its test split, a stage of its own: computed once, then loaded.

    Raises FileNotFoundError when the fine-tuned weights are not in the store (any more).
    """
    with _named("test"):
        execution = execution or Execution()
        return _evaluate_test(Inputs(resolved(recipe, execution, current()), reader or Reader()), store, execution)


def _evaluate_test(inputs: Inputs, store: Store, execution: Execution) -> Row:
    if execution.threads:
        torch.set_num_threads(execution.threads)
    recipe, node = inputs.recipe, nodes(inputs)[-1]
    name = test_id(inputs.target, node.stage_id)
    about = {"stage": "test", "stage_name": "test", "stage_id": name, "task": recipe.task, "seed": recipe.seed}
    about |= {"recipe": recipe_name(recipe), "precision": recipe.precision, "split": "test"}
    if (done := _rows(store, name, "test")) is not None:
        return done[0] | about | {"source": "loaded"}
    finetuned = store.get(node.stage_id)
    if finetuned is None or not finetuned.has(WEIGHTS):
        raise FileNotFoundError(f"no weights of {node.stage_id} in the store")
    logits, lengths = _test_logits(inputs, node, finetuned, store, execution)
    data, device = inputs.target, pick_device(execution.device)
    tuned = finetuned.rows("finetune")[-1].get("thresholds")
    row: Row = measured(logits, data.test, data.labels, "half", tuned) | {"device": device_name(device), "step": node.steps}
    with tempfile.TemporaryDirectory(dir=store.local_cache("writing")) as folder:
        path = write_predictions(Path(folder) / PREDICTIONS, logits, data.test.labels, tuned, lengths)
        manifest = {"kind": "test", "parent": node.stage_id, "rows": [row], "labels": list(data.labels)}
        store.publish(name, manifest, {path.name: path}, move=True)
    return row | about | {"source": "computed"}


def _test_logits(
    inputs: Inputs, node: Node, finetuned: Artifact, store: Store, execution: Execution
) -> tuple[np.ndarray, np.ndarray]:
    """(logits [n, classes] of the test split, length [n] of each text or pair in pieces before any cut)."""
    recipe, data, base = inputs.recipe, inputs.target, jobs.base_of(inputs)
    stage = recipe.stages[-1]
    assert isinstance(stage, Finetune)
    model = finetune.model_of(stage, base, len(data.labels), recipe.seed)
    copy_weights(load_file(weights_of(finetuned)), dict(model.named_parameters()))
    runtime = Runtime(pick_device(execution.device), current(), recipe.precision == "bfloat16", execution.micro_batch)
    model.to(runtime.device).eval()
    uncut = jobs.tokens(data.test.sides, data.digest("test"), base, store)
    test = finetune.examples(data.test, uncut, base, stage)
    if (kept := jobs.features_of(inputs, node, store)) is not None:
        test = kept.of(data.test, test, model, base, runtime)
    return predict(model, base, test, runtime), finetune.lengths(data.test, uncut, base)


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
