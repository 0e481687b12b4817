"""The training loop: accumulate, clip, step, evaluate, save, yield.

Everything random is a function of the seed and the step: the texts of a batch, the masked tokens, the bits of dropout. So a resume
needs only the weights, Adam's moments and the step, and may start in the middle of an epoch; and splitting a batch into
micro-batches or over workers changes no random number, except for dropout on GPUs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from trainables.batches.pack import Batch, Example
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import Base
from trainables.heads.classifier import Classifier
from trainables.heads.marker import Marker
from trainables.heads.masked_lm import MaskedLM
from trainables.heads.next_sentence import PairedLM
from trainables.training import energy, memory
from trainables.training.gradient_sums import GradientSums
from trainables.training.micro_batches import Lack, Limit, MicroBatch, Share, prepare
from trainables.training.runtime import Runtime

Row = dict[str, Any]
T = TypeVar("T")


class Diverged(ArithmeticError):
    """The gradient norm of a step is not finite; the step was not taken."""

    def __init__(self, step: int, value: float) -> None:
        self.step = step
        super().__init__(f"diverged: the gradient norm of step {step} is {value}")


@dataclass
class Job:
    """Everything that the loop needs from a stage: `pretrain`, `multitask`, `marker` and `finetune` differ in nothing else."""

    base: Base
    model: Classifier | MaskedLM | PairedLM | Marker
    optimizer: torch.optim.Optimizer
    steps: int
    """Length of the schedule, in optimizer steps."""
    rate: Callable[[int], float]
    """Factor of the peak learning rates at a step."""
    examples: Callable[[int], Sequence[Example]]
    """The global batch of a step."""
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    """Loss of a micro-batch, summed over the units that `weight` counts."""
    weight: Callable[[Sequence[Example]], float]
    """Number of texts (fine-tuning; weighted by class) or of predicted pieces (pre-training): the loss is a mean over them."""
    evaluate_at: frozenset[int]
    """Steps after which to evaluate."""
    evaluate: Callable[[int, nn.Module], Row]
    """Metrics after a step."""
    clip_norm: float
    seed: int
    thaw: Callable[[int], None] = lambda step: None
    """Called before a step: makes the parameters trainable that are trained from then on."""
    artifact_files: Callable[[Path], dict[str, Path]] = lambda folder: {}
    """Writes further files of the artifact, such as predictions, into a folder: {name: file}."""
    best: str | None = None
    """Score in the rows that selects the artifact's weights: those of the first evaluation with the largest score; None: the last
    weights."""


@dataclass
class Position:
    """Progress of a run that a resume restores, in addition to weights and moments."""

    step: int = 0
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    energy_j: float | None = 0.0
    """Energy of the GPUs of all ranks, validation included; None from the first time that a GPU does not report it."""
    tokens: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0
    unreached: list[str] = field(default_factory=list)
    """Parameters that some step did not reach: with several ranks they decide the order of sums."""


def train(
    job: Job,
    runtime: Runtime,
    at: Position,
    until: int,
    save: Callable[[Position], None],
    begin_save: Callable[[int], None] = lambda step: None,
) -> Iterator[Row]:
    """Train from the position `at` to step `until`; yield a row after every evaluation, once `save` has returned.

    `begin_save` is called before an evaluation: weights and moments then stay what they are until the next row is asked for.
    `at` is updated in place. To stop early, stop iterating. Raises Diverged before a step whose gradient is not finite.
    """
    world = runtime.world
    peaks = [group["lr"] for group in job.optimizer.param_groups]
    losses = torch.full((), at.loss_sum if world.leads else 0.0, dtype=torch.float64, device=runtime.device)
    norms: deque[tuple[int, Callable[[], float]]] = deque()
    named = dict(job.model.named_parameters())
    sums = GradientSums(world, (named[name] for name in at.unreached if name in named))
    limit, clock, seconds_before = _limit(job, runtime), time.perf_counter(), at.seconds
    joules, joules_before = runtime.joules(), at.energy_j
    micro = runtime.micro_batch
    job.model.train()

    def prepared(step: int) -> tuple[Sequence[Example], float, Share]:
        batch = job.examples(step)
        return batch, job.weight(batch), _share(job, runtime, limit, batch)

    for step, (batch, weight, share) in _ahead(prepared, range(at.step, until)):
        job.thaw(step)
        parameters = [parameter for parameter in job.model.parameters() if parameter.requires_grad]

        # Accumulate. If memory runs out on any rank, all ranks repeat the step, that rank with half the micro-batch: the sums are
        # the same.
        while True:
            if share.limit != limit:
                share = _share(job, runtime, limit, batch)
            job.optimizer.zero_grad(set_to_none=True)
            with memory.explained("for the sums of gradients"):
                sums.begin(parameters)
            total, lack = _accumulate(job, runtime, step, share, weight, sums)
            sums.start_all()
            have_gradient = (parameter.grad is not None for parameter in parameters)
            lacking, final, *reached = world.any(lack is not None, lack is not None and not lack.divisible, *have_gradient)
            if final:
                raise MemoryError(lack.text if lack else "memory ran out on another worker")
            if not lacking:
                break
            if lack is not None:
                limit = limit.below(lack.examples)
                memory.release()
        with memory.explained("while workers added their gradients"):
            sums.finish(dict(zip(parameters, reached, strict=True)))

        # Clip and step in one pass: the fused kernel divides gradients by grad_scale while it reads them. The kernel itself skips a
        # step whose norm is not finite, so no synchronisation with the GPU is needed.
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        job.optimizer.grad_scale = ((norm + 1e-6) / (job.clip_norm or math.inf)).clamp(min=1.0)  # type: ignore[attr-defined]
        job.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        for group, peak in zip(job.optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * job.rate(step)
        norms.append((step + 1, _on_host(norm)))
        if runtime.device.type == "cpu":
            _check(*norms[-1])
        job.optimizer.step()
        while len(norms) > 1:  # read one step late, when the copy has arrived
            _check(*norms.popleft())

        losses += total
        at.step, at.loss_weight = step + 1, at.loss_weight + weight
        at.tokens += sum(len(example.ids) for example in batch)
        if len(share.parts) > 1:
            micro = max(len(part.examples) for part in share.parts)
        due, last = at.step in job.evaluate_at, at.step == until
        if not (due or last or runtime.save_at(at.step)):
            continue

        # Evaluate, save, yield.
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        _check(*norms[-1])
        at.loss_sum = sum(world.gather(losses.item()))
        row: Row = {}
        if due:
            row = {"step": at.step, "tokens": at.tokens, "train_loss": at.loss_sum / max(1, at.loss_weight)}
            trained = time.perf_counter() - clock + seconds_before
            row |= {"learning_rate": peaks[-1] * job.rate(step), "wall_s": trained, "tokens_per_s": at.tokens / max(trained, 1e-9)}
            begin_save(at.step)
            job.model.eval()
            row |= job.evaluate(at.step, job.model)
            job.model.train()
            row["micro_batch"], micro = micro, runtime.micro_batch
            at.rows.append(row)
            at.loss_sum, at.loss_weight = 0.0, 0
        losses.fill_(at.loss_sum if world.leads else 0.0)
        at.unreached = [name for name, parameter in named.items() if sums.reached_sometimes(parameter)]
        at.seconds = time.perf_counter() - clock + seconds_before
        at.energy_j = energy.added(joules_before, *world.gather(energy.used(joules, runtime.joules())))
        if due and at.energy_j is not None:
            row["energy_j"] = at.energy_j
        save(at)
        if due:
            yield row


def _limit(job: Job, runtime: Runtime) -> Limit:
    """What a micro-batch may hold: the texts that the runtime says, or as many as fit into the device's memory."""
    trained = [parameter for group in job.optimizer.param_groups for parameter in group["params"]]
    footprint = memory.footprint(job.model, job.base.packable, runtime.device, runtime.recomputes)
    room = memory.room(runtime.device, trained)
    return Limit(footprint, runtime.micro_batch, math.inf if runtime.micro_batch else room, room)


def _share(job: Job, runtime: Runtime, limit: Limit, batch: Sequence[Example]) -> Share:
    """This rank's share of a global batch."""
    # On the CPU the bits of dropout are those of a text's place in the batch, so the texts of a rank must follow each other.
    before, own = runtime.world.share([len(example.ids) for example in batch], in_order=runtime.device.type == "cpu")
    pinned = runtime.device.type != "cpu"
    return prepare([batch[i] for i in before], [batch[i] for i in own], job.base, limit, pinned)


def _accumulate(
    job: Job, runtime: Runtime, step: int, share: Share, weight: float, sums: GradientSums
) -> tuple[torch.Tensor, Lack | None]:
    """Accumulate gradients of this rank's share of the batch, and allocate what the update needs. Returns (its loss sum, lack)."""
    total = torch.zeros((), dtype=torch.float64, device=runtime.device)
    part: MicroBatch | None = None
    try:
        for part in share.parts:
            packed = part.batch.to(runtime.device)
            with dropout_bits(job.seed, step, packed):
                with torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.autocast):
                    loss = job.loss(job.model, packed)
                # Outside autocast, which would compute in 16 bits what the forward pass computed in 32.
                with sums.overlapped() if part is share.parts[-1] else nullcontext():
                    (loss / weight).backward()
            total += loss.detach()
        _allocate(job.optimizer)
    except (MemoryError, RuntimeError) as error:
        if not memory.out_of_memory(error):
            raise
        if part is None:
            return total, Lack((), False, f"memory ran out: {error}")
        return total, Lack(part.examples, part.divisible, f"a single text does not fit into memory: {error}")
    return total, None


def _allocate(optimizer: torch.optim.Optimizer) -> None:
    """Allocate AdamW's moments of parameters that have their first gradient, as torch's `step` does.

    There a lack of memory would leave some groups updated and some states incomplete; here the step can be repeated.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        return
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter.grad is None or optimizer.state[parameter]:
            continue
        moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def _on_host(norm: torch.Tensor) -> Callable[[], float]:
    """Start to copy a number to the host, and return a function that waits for this copy alone and reads it."""
    if norm.device.type != "cuda":
        return lambda: float(norm)
    copy, arrived = norm.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()

    def read() -> float:
        arrived.synchronize()
        return float(copy)

    return read


def _check(step: int, norm: Callable[[], float]) -> None:
    value = norm()
    if not math.isfinite(value):
        raise Diverged(step, value)


def _ahead(prepare: Callable[[int], T], steps: range) -> Iterator[tuple[int, T]]:
    """Yield (step, what is prepared for it); the next step is prepared while this one is computed."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(prepare, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            ready = coming.result()
            coming = worker.submit(prepare, step + 1) if step + 1 < steps.stop else None
            yield step, ready
