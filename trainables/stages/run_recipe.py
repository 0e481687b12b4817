"""Runs the stages of a recipe in order: finished ones are loaded, interrupted ones resumed, missing ones computed.

One process computes a stage, the others wait for its artifact.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from trainables.encoder import attention, lora
from trainables.encoder.load import model_state, sixteen_bit_notices
from trainables.encoder.recompute import recompute_blocks
from trainables.scores import predictions, temperature
from trainables.scores.evaluate import measured, predict, write_predictions
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import finetune, jobs
from trainables.stages.identity import nodes, recipe_name
from trainables.stages.inputs import Inputs, Reader
from trainables.stages.kinds import KINDS
from trainables.stages.node import Node, milestone_id, test_id
from trainables.stages.state_files import StateWriter, copy_weights, restore, saved, weights_of
from trainables.store.artifact_files import PREDICTIONS, VALIDATED, WEIGHTS
from trainables.store.background import background
from trainables.store.store import Artifact, DamagedArtifact, Store
from trainables.training import energy, gpus, memory
from trainables.training.loop import Job, Position, Row, train
from trainables.training.optimizer import rates
from trainables.training.precision import pick_device, resolve
from trainables.training.runtime import SIXTEEN_BITS, Runtime
from trainables.training.world import World, current

log = logging.getLogger(__name__)


def resolved(recipe: Recipe, execution: Execution, world: World) -> Recipe:
    """The recipe with `precision: auto` replaced by the best precision of rank 0's machine, on every rank.

    Raises ConfigError on a rank whose device lacks the precision.
    """
    own = recipe.precision if recipe.precision == "auto" and not world.leads else resolve(recipe.precision, execution.device)
    precision = world.broadcast(own)
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
    """Run a recipe's stages and yield a row per evaluation, including those of finished stages and of interrupted runs.

    `last` stops after the stage of that name; `milestones` are further steps at which it publishes an artifact, if it is further
    pre-training; `reader` keeps the data of earlier recipes. Under torch.distributed all ranks iterate together, and rank 0 writes.
    The fields of rows are those of the records. Raises ConfigError before anything is computed if a package is missing.
    """
    execution = execution or Execution()
    _settle(execution)
    world = current()
    recipe = resolved(recipe, execution, world)
    ranks = {stage.name: stage.lora_rank for stage in recipe.stages if isinstance(stage, Finetune)}
    if faults := [f"{name}.{fault}" for name, rank in ranks.items() for fault in lora.missing(rank)]:
        raise ConfigError(faults)
    inputs = Inputs(recipe, reader or Reader())
    for node in nodes(inputs):
        wanted = {node.steps: node.stage_id}
        if node.stage.name == last and KINDS[node.stage.kind].milestones:
            wanted |= {step: milestone_id(node.trajectory_id, step) for step in milestones if step}
        common = {
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
                yield KINDS[node.stage.kind].row(node.stage, inputs, row) | common
        if node.stage.name == last:
            return


def _settle(execution: Execution) -> None:
    """Give this process its threads and its share of the GPU's memory."""
    if execution.threads:
        torch.set_num_threads(execution.threads)
    memory.bound(pick_device(execution.device), execution.gpu_share)


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Add the name of the stage to an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"stage {stage}")
        raise


def _stage(
    inputs: Inputs, node: Node, wanted: Mapping[int, str], store: Store, execution: Execution, world: World
) -> Generator[Row, None, None]:
    """Rows of one stage: from its artifacts if all are in the store, else computed under a claim on its trajectory."""
    needs = (WEIGHTS,) if node.part_of else ()  # another study may have fine-tuned the same model and dropped its weights
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
    """Rows of a finished stage; None if it is missing, or if it is damaged, which removes it."""
    artifact = store.get(name, needs)
    with contextlib.suppress(DamagedArtifact):
        return artifact.rows(kind) if artifact is not None else None
    return None


def _compute(inputs: Inputs, node: Node, wanted: dict[int, str], store: Store, execution: Execution, world: World) -> Iterator[Row]:
    """Train the stage from its saved state, or from its parent, to the last of the wanted steps ({step: artifact id})."""
    recipe, device = inputs.recipe, pick_device(execution.device)
    saves = execution.state_every_steps
    runtime = Runtime(
        device=device,
        world=world,
        precision=recipe.precision,
        micro_batch=execution.micro_batch,
        save_at=lambda step: bool(saves) and step % saves == 0,
        joules=_joules(device, execution),
        gpu_share=execution.gpu_share,
        recomputes=execution.gradient_checkpointing,
    )
    parent = store.get(node.parent_id) if node.parent_id else None
    job = job_of(inputs, node, weights_of(parent) if parent else None, frozenset(wanted), store, runtime)
    if execution.gradient_checkpointing:
        recompute_blocks(job.model.encoder)
    notices = [*job.base.notices, *job.model.notices, *KINDS[node.stage.kind].notices(node.stage, inputs)]
    notices += sixteen_bit_notices(job.base) if runtime.precision in SIXTEEN_BITS else ()
    for notice in notices:
        log.warning("%s", notice)
    rates_of_groups = rates(job.optimizer.param_groups)
    log.info("%s %s: learning rates %s", node.stage.kind, node.stage_id, rates_of_groups)

    def computed() -> Row:
        """How the stage is computed: some of it is only known after the first step."""
        _, failed = attention.ran_in(job.model)
        here = {"source": "computed", "group_rates": rates_of_groups, "notices": [*notices, *failed]}
        return here | computed_by(device, job.model)

    position, best = restore(job, node.stage.kind, store, node.trajectory_id, min(wanted), world)

    def save(position: Position) -> None:
        if not world.leads:
            return
        if position.rows and position.rows[-1]["step"] == position.step:
            position.rows[-1].update(computed())
            if job.best and all(row[job.best] < position.rows[-1][job.best] for row in position.rows[:-1]):
                best.update({name: tensor.to("cpu", copy=True) for name, tensor in model_state(job.model).items()})
        if position.step in wanted:
            with store.writing() as folder:
                _publish(job, recipe, node, wanted[position.step], position, store, execution, folder, best)
        if position.step != job.steps:
            states.complete(asdict(position), best)
            return
        writes.wait()  # else it would write a state into what is removed
        store.drop_state(node.trajectory_id)

    def begin(step: int) -> None:
        if world.leads and step != job.steps:
            states.begin(step)

    for row in position.rows:
        yield row | {"source": "loaded"}
    if job.base.packable and not (isinstance(node.stage, Finetune) and node.stage.fixed_encoder):
        attention.try_kernels(job.model, job.base.config, SIXTEEN_BITS.get(runtime.precision, torch.float32))
    with background() as writes:
        states = StateWriter(job, store, node.trajectory_id, writes)
        try:
            for row in train(job, runtime, position, max(wanted), save, begin):
                writes.wait()  # what is recorded is never computed again, whatever happens next
                yield row | computed()
        finally:
            states.end()


def job_of(inputs: Inputs, node: Node, parent: Path | None, steps: frozenset[int], store: Store, runtime: Runtime) -> Job:
    """What the loop needs to train a node from the weights `parent`, or from the encoder, with artifacts at these steps."""
    place = jobs.Place(inputs, node, jobs.base_of(inputs), parent, steps, store, runtime)
    return KINDS[node.stage.kind].job(node.stage, place)


def _joules(device: torch.device, execution: Execution) -> energy.Counter:
    """The energy counter of the GPU, if no other process uses it; else a counter that reads nothing."""
    if device.type != "cuda" or execution.gpu_share < 1:
        return energy.silent
    return energy.gpu(gpus.uuid(device))


def _publish(
    job: Job,
    recipe: Recipe,
    node: Node,
    name: str,
    position: Position,
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
        "step": position.step,
        "rows": position.rows,
        "tokens": position.tokens,
        "seconds": position.seconds,
        "energy_j": position.energy_j,
        "seed": node.seed,
        "precision": recipe.precision,
    }
    store.publish(name, manifest, files, move=True)


def evaluate_test(recipe: Recipe, store: Store, execution: Execution | None = None, reader: Reader | None = None) -> Row:
    """Scores of a finished recipe on its test split, computed once and then loaded, like a stage.

    Raises FileNotFoundError if the fine-tuned weights are not in the store, or no longer.
    """
    with _named("test"):
        execution = execution or Execution()
        return _evaluate_test(Inputs(resolved(recipe, execution, current()), reader or Reader()), store, execution)


def _evaluate_test(inputs: Inputs, store: Store, execution: Execution) -> Row:
    _settle(execution)
    recipe, node = inputs.recipe, nodes(inputs)[-1]
    name = test_id(inputs.target, node.stage_id)
    common = {"stage": "test", "stage_name": "test", "stage_id": name, "task": recipe.task, "seed": recipe.seed}
    common |= {"recipe": recipe_name(recipe), "precision": recipe.precision, "split": "test"}
    finetuned = store.get(node.stage_id)
    if (rows := _rows(store, name, "test")) is not None:
        before = {} if "temperature" in rows[0] else {"temperature": temperature_of(finetuned)}  # of an older version
        return rows[0] | before | common | {"source": "loaded"}
    if finetuned is None or not finetuned.has(WEIGHTS):
        raise FileNotFoundError(f"no weights of {node.stage_id} in the store")
    logits, lengths, how = _test_logits(inputs, node, finetuned, store, execution)
    data = inputs.target
    tuned = finetuned.rows("finetune")[-1].get("thresholds")
    row: Row = measured(logits, data.test, data.labels, "half", tuned) | how | {"step": node.steps}
    row["temperature"] = temperature_of(finetuned)
    with store.writing() as folder:
        path = write_predictions(folder / PREDICTIONS, logits, data.test.labels, tuned, lengths)
        manifest = {"kind": "test", "parent": node.stage_id, "rows": [row], "labels": list(data.labels)}
        store.publish(name, manifest, {path.name: path}, move=True)
    return row | common | {"source": "computed"}


def temperature_of(finetuned: Artifact | None) -> float | None:
    """Fit the temperature that calibrates a fine-tuned model on its validation predictions; None if they are gone."""
    with contextlib.suppress(FileNotFoundError, DamagedArtifact):
        if finetuned is not None:
            return temperature.fit(*predictions.read(finetuned.path(VALIDATED)))
    return None


def _test_logits(
    inputs: Inputs, node: Node, finetuned: Artifact, store: Store, execution: Execution
) -> tuple[np.ndarray, np.ndarray, Row]:
    """(logits [n, classes] of the test split, lengths [n] of its texts in pieces before truncation, how they were computed)."""
    recipe, data, base = inputs.recipe, inputs.target, jobs.base_of(inputs)
    stage = recipe.stages[-1]
    assert isinstance(stage, Finetune)
    model = finetune.model_of(stage, base, len(data.labels), recipe.seed)
    copy_weights(load_file(weights_of(finetuned)), dict(model.named_parameters()))
    runtime = Runtime(pick_device(execution.device), current(), recipe.precision, execution.micro_batch)
    model.to(runtime.device).eval()
    uncut = jobs.tokens(data.test.sides, data.digest("test"), base, store)
    test = finetune.examples(data.test, uncut, base, stage)
    if (cached := jobs.features_of(inputs, node, store)) is not None:
        test = cached.of(data.test, test, model, base, runtime)
    logits = predict(model, base, test, runtime)
    return logits, finetune.lengths(data.test, uncut, base), computed_by(runtime.device, model)


def computed_by(device: torch.device, model: torch.nn.Module) -> Row:
    """Fields of a row: the device and, of packed batches on a GPU, the kernels of attention that have run."""
    kernels, _ = attention.ran_in(model)
    return {"device": device_name(device)} | ({"attention": ", ".join(kernels)} if kernels else {})


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
