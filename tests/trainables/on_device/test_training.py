"""The training loop on a device: what must not change a gradient, memory that runs out, and steps that wait for nothing.

Some kernels add in an order that differs between runs: equal means within rounding on a GPU, and to the bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.families import FAMILIES
from tests.trainables.heads.test_bilstm import SIZES, by_formula
from tests.trainables.on_device.jobs import LENGTHS, gradients, job_of, rows_in, rows_of, runtime_of
from trainables.batches.pack import Batch, collate
from trainables.encoder import lora
from trainables.heads.bilstm import BiLSTM
from trainables.heads.classifier import classifier
from trainables.settings.execution import Precision
from trainables.settings.stages import Finetune
from trainables.stages.finetune import task_loss
from trainables.training import loss_scale
from trainables.training.loop import Job, Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

both_precisions = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
SHORT = (12, 9, 5, 8, 14, 6)
HEADS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "bilstm": {"pooling": "bilstm", "lstm": SIZES | {"penalty": 0.5}},
    "layers": {"pooling": "mean", "layers": (0, 2)},
}


def assert_same(found: Tensor, expected: Tensor, device: torch.device, half: bool = False) -> None:
    """The same kernels on the same numbers: to the bit on the CPU, on a GPU within rounding of what is added."""
    if device.type == "cpu":
        assert torch.equal(found, expected)
    assert (found - expected).abs().max() <= (16 if half else 256) * unit(half) * expected.abs().max()


def unit(half: bool) -> float:
    return torch.finfo(torch.bfloat16 if half else torch.float32).eps


@both_precisions
@pytest.mark.parametrize("kind", FAMILIES)
def test_checkpointing_gives_the_same_gradients(device: torch.device, kind: str, half: bool) -> None:
    """With dropout: the second computation must have the masks of the first, in micro-batches as well."""
    base = tiny_base(kind)
    plain, again = (job_of(device, base, dropout=0.2, checkpointing=checkpointing) for checkpointing in (False, True))
    (expected,), (found,) = (gradients(job, device, micro_batch=4, half=half) for job in (plain, again))
    assert expected.abs().max() > 0
    assert_same(found, expected, device, half)


@pytest.mark.parametrize("head", HEADS)
def test_micro_batches_without_dropout_give_the_same_gradient(device: torch.device, head: str) -> None:
    whole, parts = (gradients(job_of(device, **HEADS[head]), device, micro)[0] for micro in (0, 3))
    assert (parts - whole).abs().max() <= 256 * unit(False) * whole.abs().max()


@pytest.mark.parametrize(("checkpointing", "half"), [(False, False), (True, True)], ids=["float32", "bfloat16 checkpointing"])
def test_micro_batches_with_dropout_give_the_same_mean_gradient(device: torch.device, checkpointing: bool, half: bool) -> None:
    """Over many steps, along the gradient without dropout and along random directions; and the draws scatter as widely."""
    straight = gradients(job_of(device, lengths=SHORT), device)[0]
    directions = torch.randn(12, len(straight), generator=torch.Generator().manual_seed(0))
    directions[0] = straight
    directions /= directions.norm(dim=1, keepdim=True)
    draws = {}
    for micro, steps in ((0, range(40)), (3, range(500, 540))):
        job = job_of(device, dropout=0.2, lengths=SHORT, checkpointing=checkpointing)
        found = gradients(job, device, micro, half, steps)
        draws[micro] = torch.stack([directions @ gradient for gradient in found])  # [steps, directions]
    means, spreads = ([draw.mean(0) for draw in draws.values()], [draw.var(0) for draw in draws.values()])
    errors = ((spreads[0] + spreads[1]) / len(draws[0])).sqrt()
    assert ((means[0] - means[1]).abs() / errors).max() < 5
    assert means[0][0] > 10 * errors[0], "the bound is narrow: a gradient off by half its size would be seen"
    assert 0.4 < (spreads[1].log() - spreads[0].log()).mean().exp() < 2.5, "micro-batches must not share their masks"


def test_two_steps_differ_in_dropout_alone(device: torch.device) -> None:
    """What the test above stands on: the weights stay, the masks do not."""
    dropped = gradients(job_of(device, dropout=0.2), device, steps=range(2))
    assert (dropped[0] - dropped[1]).abs().max() > 0.01 * dropped[0].abs().max()
    still = gradients(job_of(device), device, steps=range(2))
    assert_same(still[0], still[1], device)


def test_the_bilstm_is_that_of_the_formulas(device: torch.device) -> None:
    """Vectors, penalty and gradients in float32, against an LSTM written out on the CPU: products in TF32 would show."""
    lengths = (40, 1, 14, 9)
    model = BiLSTM(64, 48, 5, 3, penalty=0.7)
    model.draw(torch.Generator().manual_seed(1))
    model.train()
    pieces = torch.randn(sum(lengths), 64, generator=torch.Generator().manual_seed(0))
    texts = [by_formula(model, text) for text in pieces.split(lengths)]
    expected, penalty = torch.stack([vector for vector, _ in texts]), 0.7 * sum(each for _, each in texts)
    wanted = torch.autograd.grad(expected.square().sum() + penalty, list(model.parameters()))
    model.to(device)
    vectors, found = model(pieces.to(device), lengths)
    torch.testing.assert_close(vectors.cpu(), expected, rtol=0, atol=64 * unit(False) * float(expected.detach().abs().max()))
    torch.testing.assert_close(torch.as_tensor(found).cpu(), penalty, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(torch.autograd.grad(vectors.square().sum() + found, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=256 * unit(False) * float(theirs.abs().max()))


def test_gradients_of_adapters_follow_from_those_of_the_weights(device: torch.device) -> None:
    """W + alpha / r * B A: the gradient of B is alpha / r * G A' where G is that of W, and of A it is zero while B is zero."""
    pytest.importorskip("peft")
    plain, adapted = (classifier(tiny_base("bert"), 3, "pooled", 0.0, seed=0) for _ in range(2))
    lora.adapt(adapted.encoder, 3, Finetune(lora_rank=4, lora_alpha=12.0), seed=0)
    for model in (plain, adapted):
        model.to(device).train()
        batch = collate(examples_of(tiny_base("bert"), LENGTHS), tiny_base("bert")).to(device)
        task_loss(model, batch).backward()
    weights, seen = dict(plain.named_parameters()), 0
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            a = adapted.get_parameter(name.replace(".lora_B.", ".lora_A."))
            expected = 3.0 * weights[name.partition(".lora_B.")[0] + ".weight"].grad @ a.T  # type: ignore[operator]
            assert parameter.grad is not None
            assert (parameter.grad - expected).abs().max() <= 64 * unit(False) * expected.abs().max()
            assert a.grad is not None
            assert not a.grad.any()
            seen += 1
        elif name.startswith("encoder.") and ".lora_A." not in name:
            assert parameter.grad is None, name
    assert seen == 6, "queries and values of three blocks"


class Reads(TorchDispatchMode):
    """Counts the operations that hand a number to Python, for which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")
        return function(*args, **(kwargs or {}))


def reads_of(job: Job, device: torch.device, micro_batch: int, half: bool, at: Position, steps: int) -> int:
    """Numbers read in so many steps; on a GPU any wait in them but the last, which ends with the norm on purpose, raises."""
    first, last = at.step, at.step + steps - 1
    if device.type == "cuda":
        job.thaw = lambda step: torch.cuda.set_sync_debug_mode("error" if first <= step < last else "default")
    try:
        with Reads() if device.type == "cpu" else nullcontext(Reads()) as reads:
            list(train(job, runtime_of(device, micro_batch, half), at, at.step + steps, lambda at: None))
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return reads.count


@pytest.mark.parametrize(
    ("kind", "checkpointing", "half"), [("bert", False, False), ("bert", True, True), ("modernbert", False, True)]
)
def test_a_step_waits_for_nothing(device: torch.device, kind: str, checkpointing: bool, half: bool) -> None:
    """On the CPU: forward and backward pass read no number, however many micro-batches; the loop itself reads the norm."""
    job, at = job_of(device, tiny_base(kind), dropout=0.1, rate=1.0, checkpointing=checkpointing), Position()
    list(train(job, runtime_of(device, half=half), at, 2, lambda at: None))  # kernels are chosen and loaded
    whole, parts = (reads_of(job, device, micro, half, at, 4) for micro in (0, 2))
    assert whole == parts <= 4 * 3


def test_a_read_in_a_step_is_seen(device: torch.device) -> None:
    """What the test above stands on."""
    job, at = job_of(device), Position()
    plain, counted = job.loss, reads_of(job, device, 0, False, at, 3)
    job.loss = lambda model, batch: plain(model, batch) * float(batch.pool_index.sum().cos().abs() + 1)
    if device.type == "cuda":
        with pytest.raises(RuntimeError, match="synchroniz"):
            reads_of(job, device, 0, False, at, 3)
    else:
        assert reads_of(job, device, 0, False, at, 3) == counted + 3


@contextmanager
def memory_for(job: Job, device: torch.device, most: int, texts: int) -> Iterator[None]:
    """Within the block a GPU has `most` bytes; on the CPU a pass of more than so many texts fails as it would there."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(device).total_memory)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    plain = job.loss

    def tight(model: nn.Module, batch: Batch) -> Tensor:
        if len(batch.lengths) > texts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(model, batch)

    job.loss = tight
    yield
    job.loss = plain


def peak(job: Job, device: torch.device, micro_batch: int) -> int:
    """Bytes that a step takes on a GPU; 0 on the CPU."""
    if device.type == "cpu":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    gradients(job, device, micro_batch)
    return torch.cuda.max_memory_reserved()


def test_memory_that_runs_out_halves_the_micro_batch(device: torch.device) -> None:
    """The whole batch does not fit, its parts do: the step is repeated in parts, and its gradient is the same."""
    wide = {"hidden_size": 256, "intermediate_size": 1024}
    texts, length, shape = (64, 256, wide) if device.type == "cuda" else (8, 20, {})
    job = job_of(device, tiny_base("bert", **shape), lengths=(length,) * texts)
    expected = gradients(job, device, 1)[0]
    small, large = peak(job, device, texts // 8), peak(job, device, 0)
    if device.type == "cuda":
        assert large > 2 * small, "the texts take the memory, not the weights"
    with memory_for(job, device, (small + large) // 2, texts // 4):
        (row,) = rows_of(job, device, 1)
        found = gradients(job, device)[0]
    assert texts // 8 <= row["micro_batch"] <= texts // 2
    assert (found - expected).abs().max() <= 256 * unit(False) * expected.abs().max()


def test_float16_skips_what_overflows_and_then_trains_as_float32(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step has the same texts: as long as steps are skipped, so is the loss."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**33)
    exact = [row["train_loss"] for row in rows_of(job_of(device, rate=1.0), device, 4)]
    rows = rows_in(Runtime(device, World(), "float16"), job_of(device, rate=1.0), 30)
    skipped, losses = rows[-1]["skipped_steps"], [row["train_loss"] for row in rows]
    assert 0 < skipped <= 26
    assert losses[: skipped + 1] == pytest.approx([losses[0]] * (skipped + 1), rel=1e-3)
    assert losses[skipped : skipped + 4] == pytest.approx(exact, abs=0.02)


PRECISIONS: tuple[Precision, ...] = ("float32", "tf32")


def test_tf32_rounds_on_a_gpu_alone(device: torch.device) -> None:
    """On a CPU it would be float32, which is why it is refused there before it comes to the loop."""
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    exact, found = (
        [row["train_loss"] for row in rows_in(Runtime(device, World(), precision), job_of(device, rate=1.0), 4)]
        for precision in PRECISIONS
    )
    assert found == pytest.approx(exact, abs=0.01)
    assert (found == exact) == (device.type == "cpu")
