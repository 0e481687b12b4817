"""Tensors of stages in files: the weights of an artifact; weights, moments and position in the state of an unfinished stage.

A state is read back if it fits what is trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from trainables.encoder.load import model_state
from trainables.store import manifest
from trainables.store.artifact_files import WEIGHTS, Damage
from trainables.store.background import Background
from trainables.store.states import Draft, State
from trainables.store.store import Artifact, Store
from trainables.training.loop import Job, Position
from trainables.training.runtime import Runtime
from trainables.training.world import World

BEST = "best.safetensors"
"""The weights of the best evaluation so far, where a stage keeps these."""
MOMENTS = "optimizer.safetensors"
MOMENT = ("step", "exp_avg", "exp_avg_sq")
LATER: dict[str, Any] = {"unreached": [], "loss_scale": None, "good_steps": 0, "skipped_steps": 0}
"""Fields of positions that earlier versions did not save, with their values then."""
Tensors = Mapping[str, torch.Tensor]


def restore(
    job: Job, kind: str, store: Store, name: str, first_wanted: int, world: World
) -> tuple[Position, dict[str, torch.Tensor]]:
    """Put weights and moments where the furthest state stands that is not past what is wanted. All ranks read the same state.

    (the position, the best weights so far of a job that keeps these). A state that does not fit the job is dropped with a notice.
    """
    state, found, fault = store.load_state(name, first_wanted), None, None
    try:
        found = _read(state, job, kind) if state else None
    except Damage as damage:
        fault = str(damage)
    step, fault = world.broadcast((state.step if state else 0, fault))
    if fault and world.leads:
        store.notice(f"the state of stage {name} at step {step} is damaged and not used: {fault}")
        store.drop_state(name)
    if fault or not step:
        return Position(), {}
    assert state is not None, f"this rank does not see the state of {name} at step {step}"
    assert found is not None, f"this rank cannot use the state of {name} at step {step}"
    assert state.step == step, f"the ranks see different states of {name}: steps {step} and {state.step}"
    at, weights, moments, best = found
    parameters = dict(job.model.named_parameters())
    copy_weights(weights, {key: parameters[key] for key in weights})
    for index, group, parameter in _optimised(job):
        job.optimizer.state[parameter] = {
            key: moments[f"{index}.{key}"].to(parameter.device if key != "step" or group.get("fused") else "cpu")
            for key in MOMENT
            if f"{index}.{key}" in moments
        }
    return at, best


def _read(state: State, job: Job, kind: str) -> tuple[Position, Tensors, Tensors, dict[str, torch.Tensor]]:
    """(position, weights, moments, best weights) of a state. Raises Damage for what a run of this job would not have left."""
    at = _position(state, kind)
    weights, moments = _tensors(state, WEIGHTS), _tensors(state, MOMENTS)
    # Earlier versions saved all weights.
    _same(weights, trained(job) | {key: weight for key, weight in job.model.named_parameters() if key in weights}, WEIGHTS)
    expected = {f"{index}.{key}": parameter for index, _, parameter in _optimised(job) for key in MOMENT}
    for key in moments:
        if key not in expected or moments[key].shape != (() if key.endswith(".step") else expected[key].shape):
            raise Damage(f"{MOMENTS} has a {key!r} that this stage has not")
    if not (job.best and at.rows):
        return at, weights, moments, {}
    best = _tensors(state, BEST)
    _same(best, model_state(job.model), BEST)
    return at, weights, moments, best


def _position(state: State, kind: str) -> Position:
    given = state.meta.get("position")
    given = LATER | given if isinstance(given, dict) else {}
    if given.keys() != {field.name for field in fields(Position)}:
        raise Damage("its position is none")
    if given.get("step") != state.step:
        raise Damage(f"its position is of step {given.get('step')!r}")
    if fault := manifest.fault_of_position(kind, given):
        raise Damage(fault)
    return Position(**given)


def _tensors(state: State, name: str) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(state.path(name))
    except SafetensorError as error:
        raise Damage(f"{name} cannot be read: {error}") from None
    except FileNotFoundError:
        raise Damage(f"{name} is gone") from None
    return found


def _same(found: Tensors, expected: Tensors, name: str) -> None:
    """Raises Damage unless these are the names, shapes and types of numbers."""
    for key in found.keys() | expected.keys():
        ours, theirs = expected.get(key), found.get(key)
        if ours is None or theirs is None or (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            raise Damage(f"{name}: {key!r} does not fit what this stage trains")


def _optimised(job: Job) -> Iterator[tuple[int, dict[str, Any], torch.nn.Parameter]]:
    pairs = [(group, parameter) for group in job.optimizer.param_groups for parameter in group["params"]]
    return ((index, group, parameter) for index, (group, parameter) in enumerate(pairs))


def trained(job: Job) -> dict[str, torch.nn.Parameter]:
    """The weights that the stage trains at some time; all others are what they were when the job was made."""
    optimised = {id(parameter) for _, _, parameter in _optimised(job)}
    return {name: parameter for name, parameter in job.model.named_parameters() if id(parameter) in optimised}


class HostCopies:
    """Copies of tensors in host memory. The memory is used again: to obtain it takes longer than to copy."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], torch.Tensor] = {}

    def of(self, files: Mapping[str, Tensors]) -> dict[str, dict[str, torch.Tensor]]:
        """{file: {name: copy}}, valid until the next call."""
        copies: dict[str, dict[str, torch.Tensor]] = {file: {} for file in files}
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                copies[file][name] = self._place(file, name, tensor).copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensors in files.values() for tensor in tensors.values()):
            torch.cuda.synchronize()
        return copies

    def _place(self, file: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if (file, name) not in self._kept:
            self._kept[file, name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return self._kept[file, name]


def state_tensors(job: Job) -> dict[str, Tensors]:
    """{file: tensors}: trained weights and moments, with the position everything that a bit-for-bit resume needs."""
    moments = {
        f"{index}.{key}": value
        for index, _, parameter in _optimised(job)
        for key, value in job.optimizer.state[parameter].items()
        if isinstance(value, torch.Tensor)
    }
    return {WEIGHTS: trained(job), MOMENTS: moments}


class StateWriter:
    """Writes states of a stage while it is computed.

    At an evaluation, weights and moments are written while it runs, since it does not change them, and the position after it.
    Between evaluations training goes on at once, and everything is written from a copy.
    """

    def __init__(self, job: Job, store: Store, name: str, writes: Background) -> None:
        self._job, self._store, self._name, self._writes = job, store, name, writes
        self._owns = store.owns(name)
        self._copies = HostCopies()
        self._begun: int | None = None
        """Step of the state that waits for its evaluation."""
        self._draft: Draft | None = None

    def begin(self, step: int) -> None:
        """Start to write weights and moments, which must not change before `complete` has been called and its task has ended."""
        self._writes.wait()  # the copies are free again
        tensors = state_tensors(self._job)
        if any(tensor.device.type != "cpu" for members in tensors.values() for tensor in members.values()):
            tensors = dict(self._copies.of(tensors))
        self._draft, self._begun = None, step
        self._writes.start(partial(self._put, step, tensors))

    def complete(self, position: Mapping[str, Any], best: Tensors) -> None:
        """Start to write the position, with the best weights if there are any, and what `begin` has not written.

        Raises StoreError for a failure of what was started before.
        """
        self._writes.wait()
        step, more = int(position["step"]), {BEST: dict(best)} if best else {}
        if self._begun == step:
            self._begun = None
            self._writes.start(partial(self._mark, position, more))
        else:
            tensors = self._copies.of(state_tensors(self._job))
            self._writes.start(partial(self._whole, step, position, tensors | more))

    def end(self) -> None:
        """Remove what was begun and not completed, after a failure or an interrupt of the evaluation."""
        if self._begun is not None:
            with suppress(Exception):  # it was not to be used
                self._writes.wait()
            if self._draft is not None:
                self._store.discard_state(self._name, self._draft)

    def _put(self, step: int, tensors: Mapping[str, Tensors]) -> None:
        with self._store.writing() as folder:
            self._draft = self._store.begin_state(self._name, step, _files(tensors, folder), move=True, owns=self._owns)

    def _mark(self, position: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        if self._draft is None:
            return
        with self._store.writing() as folder:
            files = _files(tensors, folder)
            self._store.complete_state(self._name, self._draft, {"position": position}, files, move=True, owns=self._owns)

    def _whole(self, step: int, position: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        with self._store.writing() as folder:
            files = _files(tensors, folder)
            self._store.save_state(self._name, step, {"position": position}, files, move=True, owns=self._owns)


def _files(tensors: Mapping[str, Tensors], folder: Path) -> dict[str, Path]:
    return {file: saved(members, folder / file) for file, members in tensors.items()}


def saved(tensors: Tensors, path: Path) -> Path:
    """Write tensors to a file of safetensors. Raises OSError with the path where the disk refuses."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):  # it does not say which file
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    return path


def weights_of(artifact: Artifact) -> Path:
    """The file of an artifact's weights. Raises DamagedArtifact for one that is none of safetensors."""
    path = artifact.path(WEIGHTS)
    try:
        with safe_open(path, "pt"):
            return path
    except SafetensorError as error:
        raise artifact.damaged(f"{WEIGHTS}: {error}") from None


def with_weights(model: torch.nn.Module, name: str, store: Store, runtime: Runtime) -> torch.nn.Module:
    """A model with the weights of an artifact, for evaluation."""
    artifact = store.get(name)
    assert artifact is not None, f"artifact {name} vanished from the store"
    copy_weights(load_file(weights_of(artifact)), dict(model.named_parameters()))
    return model.to(runtime.device).eval()


def copy_weights(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.nn.Parameter]) -> None:
    """Raises KeyError for a parameter that the source lacks, ValueError for one of another shape, which would be spread over it."""
    with torch.no_grad():
        for name, parameter in target.items():
            if source[name].shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(source[name].shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(source[name])
