"""The training loop: accumulate, clip, step, evaluate, save, yield.

Everything random is a function of the seed and the step: the texts of a batch, the masked tokens, the bits of dropout. So a resume
needs only the weights, Adam's moments and the step, and may start in the middle of an epoch; and splitting a batch into
micro-batches or over workers changes no random number.
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
from typing import Any

import torch
from torch import nn

from trainables.batches.pack import Batch, Example, collate
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import Base
from trainables.heads.classifier import Classifier
from trainables.heads.marker import Marker
from trainables.heads.masked_lm import MaskedLM
from trainables.heads.next_sentence import PairedLM
from trainables.training import energy
from trainables.training.gradient_sums import GradientSums
from trainables.training.runtime import Runtime

Row = dict[str, Any]


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


def train(job: Job, runtime: Runtime, at: Position, until: int, save: Callable[[Position], None]) -> Iterator[Row]:
    """Train from the position `at` to step `until`; yield a row after every evaluation, once `save` has returned.

    `at` is updated in place. To stop early, stop iterating. Raises Diverged before a step whose gradient is not finite.
    """
    world = runtime.world
    peaks = [group["lr"] for group in job.optimizer.param_groups]
    losses = torch.full((), at.loss_sum if world.leads else 0.0, dtype=torch.float64, device=runtime.device)
    norms: deque[tuple[int, torch.Tensor]] = deque()
    sums = GradientSums(world)
    micro, clock, seconds_before = runtime.micro_batch, time.perf_counter(), at.seconds
    joules, joules_before = runtime.joules(), at.energy_j
    job.model.train()

    for step, batch in _ahead(job.examples, range(at.step, until)):
        weight = job.weight(batch)
        job.thaw(step)
        parameters = [parameter for parameter in job.model.parameters() if parameter.requires_grad]

        # Accumulate. If memory runs out on any rank, all ranks repeat the step with half the micro-batch: the sums are the same.
        while True:
            job.optimizer.zero_grad(set_to_none=True)
            sums.begin(parameters)
            total, short = _accumulate(job, runtime, step, batch, weight, micro, sums)
            sums.start_all()
            short, *reached = world.any(short, *(parameter.grad is not None for parameter in parameters))
            if not short:
                break
            micro = _smaller(micro, -(-len(batch) // world.size))
        sums.finish(dict(zip(parameters, reached, strict=True)))

        # Clip and step in one pass: the fused kernel divides gradients by grad_scale while it reads them. The kernel itself skips a
        # step whose norm is not finite, so no synchronisation with the GPU is needed.
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        job.optimizer.grad_scale = ((norm + 1e-6) / (job.clip_norm or math.inf)).clamp(min=1.0)  # type: ignore[attr-defined]
        job.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        for group, peak in zip(job.optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * job.rate(step)
        if runtime.device.type == "cpu":
            _check(step + 1, norm)
        job.optimizer.step()
        norms.append((step + 1, norm.to("cpu", non_blocking=True) if runtime.device.type == "cuda" else norm))
        while len(norms) > 1:  # read one step late, when the copy has arrived
            _check(*norms.popleft())

        losses += total
        at.step, at.loss_weight = step + 1, at.loss_weight + weight
        at.tokens += sum(len(example.ids) for example in batch)
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
            job.model.eval()
            row |= job.evaluate(at.step, job.model)
            job.model.train()
            row["micro_batch"] = micro
            at.rows.append(row)
            at.loss_sum, at.loss_weight = 0.0, 0
        losses.fill_(at.loss_sum if world.leads else 0.0)
        at.seconds = time.perf_counter() - clock + seconds_before
        at.energy_j = energy.added(joules_before, *world.gather(energy.used(joules, runtime.joules())))
        if due and at.energy_j is not None:
            row["energy_j"] = at.energy_j
        save(at)
        if due:
            yield row


def _accumulate(
    job: Job, runtime: Runtime, step: int, batch: Sequence[Example], weight: float, micro: int, sums: GradientSums
) -> tuple[torch.Tensor, bool]:
    """Accumulate gradients of this rank's share of the batch. Returns (its loss sum, whether memory ran out)."""
    # On the CPU the bits of dropout are those of a text's place in the batch, so the texts of a rank must follow each other.
    before, share = runtime.world.share([len(example.ids) for example in batch], in_order=runtime.device.type == "cpu")
    total = torch.zeros((), dtype=torch.float64, device=runtime.device)
    try:
        for start in range(0, len(share), micro or max(1, len(share))):
            part, earlier = share[start : start + (micro or len(share))], before + share[:start]
            packed = collate([batch[i] for i in part], job.base, before=[batch[i] for i in earlier]).to(runtime.device)
            with (
                dropout_bits(job.seed, step, packed),
                torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.autocast),
            ):
                loss = job.loss(job.model, packed)
                with sums.overlapped() if start + len(part) == len(share) else nullcontext():
                    (loss / weight).backward()
            total += loss.detach()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if (micro or len(share)) == 1:
            raise MemoryError(f"a single text does not fit into memory: {error}") from error
        return total, True
    return total, False


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error).lower() for sign in ("out of memory", "can't allocate memory", "not enough memory"))


def _smaller(micro: int, share: int) -> int:
    """Half the micro-batch size. Also frees the memory of the failed attempt."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return max(1, (micro or share) // 2)


def _check(step: int, norm: torch.Tensor) -> None:
    value = float(norm)
    if not math.isfinite(value):
        raise Diverged(step, value)


def _ahead(examples: Callable[[int], Sequence[Example]], steps: range) -> Iterator[tuple[int, Sequence[Example]]]:
    """Yield (step, batch) for every step; the next batch is prepared while this one is computed."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(examples, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            batch = coming.result()
            coming = worker.submit(examples, step + 1) if step + 1 < steps.stop else None
            yield step, batch
