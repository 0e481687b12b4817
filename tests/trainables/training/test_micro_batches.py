"""Micro-batches: how a share is split, and what happens where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import tiny_recipe
from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.training.test_loop import CPU, job_of, losses_of
from trainables.batches.pack import CHUNK, Batch, Example
from trainables.scores.evaluate import predict
from trainables.stages import finetune
from trainables.store.store import Store
from trainables.training import footprint, loop
from trainables.training.footprint import Footprint
from trainables.training.loop import Job, Position, train
from trainables.training.micro_batches import Limit, in_halves, prepare

TOKENS = Footprint(token=1)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def texts_of(*lengths: int) -> list[Example]:
    return examples_of(tiny_base("bert"), lengths)


@pytest.mark.parametrize(
    ("lengths", "texts", "size", "expected"),
    [
        ((5, 5, 5, 5), 0, 20, [4]),
        ((5, 5, 5, 5), 0, 19, [3, 1]),
        ((5, 5, 5, 5), 3, 100, [3, 1]),
        ((5, 5, 5, 5), 3, 10, [2, 2]),
        ((50, 5, 5, 50), 0, 10, [1, 2, 1]),  # a longer one goes alone
        ((5, 50), 0, 1, [1, 1]),
        ((5,), 1, float("inf"), [1]),
        ((), 0, 10, []),
    ],
)
def test_a_share_is_split_in_its_order(lengths: tuple[int, ...], texts: int, size: float, expected: list[int]) -> None:
    found = list(Limit(TOKENS, texts, size, size).split(texts_of(*lengths)))
    assert [len(part) for part in found] == expected
    assert [i for part in found for i in part] == list(range(len(lengths)))


def test_probabilities_of_attention_count() -> None:
    """Of texts with as many tokens, fewer long ones go together."""
    limit = Limit(Footprint(token=1, square=1), 0, 2000, 2000)
    assert [len(part) for part in limit.split(texts_of(*[10] * 16))] == [16]
    assert [len(part) for part in limit.split(texts_of(*[40] * 4))] == [1] * 4


def test_fractions_of_a_long_text_pass_in_calls_within_the_limit() -> None:
    base = tiny_base("bert")
    long = Example(np.concatenate([example.ids for example in texts_of(*[10] * 12)]), label=0, fractions=(10,) * 12)
    calls = {}
    for size in (float("inf"), 40, 5):
        (part,) = prepare([], [long], base, Limit(TOKENS, 0, size, size), pinned=False).parts
        calls[size] = [len(chunk.lengths) for chunk in part.batch.chunks]
        assert part.divisible == (size != 5)
    assert calls == {float("inf"): [12], 40: [4, 4, 4], 5: [1] * 12}
    assert Limit(TOKENS, 0, float("inf"), 10**9).chunk([long]) == CHUNK


def test_half_of_what_failed_is_the_limit() -> None:
    limit = Limit(TOKENS, 0, float("inf"), float("inf"))
    half = limit.below(texts_of(50, 50, 50, 50))
    assert (half.bytes, half.pass_bytes) == (100, 100)
    assert half.below(texts_of(10, 10)).bytes == 10
    assert half.below(texts_of(30, 10, 10)).bytes == 30  # the larger half
    long = Example(np.zeros(600, np.int32), fractions=(60,) * 10)
    assert half.below([long]).pass_bytes == 50  # its calls had 100, not 600


def tight(job: Job, tokens: int, sizes: list[int]) -> None:
    """A pass over more than so many tokens fails as it does on a full GPU."""

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        sizes.append(len(batch.lengths))
        if sum(batch.lengths) > tokens:
            raise FULL
        return finetune.cross_entropy(model, batch)

    job.loss = loss


def test_a_batch_of_long_texts_leaves_the_others_whole(tmp_path: Path) -> None:
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    long, short = texts_of(*[24] * 8), texts_of(*[6] * 8)
    sizes: list[int] = []
    job.examples = lambda step: [replace(text, label=i % 2) for i, text in enumerate(long if step == 1 else short)]
    tight(job, 100, sizes)
    job.evaluate_at = frozenset({1, 2, 4})
    rows = list(train(job, CPU, Position(), 4, lambda at: None))
    assert sizes == [8, 8, 4, 4, 8, 8]
    assert [row["micro_batch"] for row in rows] == [0, 4, 0]


@pytest.mark.parametrize("at", [0, 11])
def test_memory_that_runs_out_for_the_moments_repeats_the_step(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is updated in part: the same losses."""
    store = Store(str(tmp_path / "store"))
    expected = losses_of(job_of(tiny_recipe(tmp_path), store, 0), 4)
    job, calls, zeros = job_of(tiny_recipe(tmp_path), store, 0), iter(range(10**6)), torch.zeros_like

    def failing(*args: Any, **kwargs: Any) -> torch.Tensor:
        if next(calls) == at:
            raise FULL
        return zeros(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros_like", failing)
    np.testing.assert_allclose(losses_of(job, 4), expected, atol=1e-5)
    assert next(calls) > at + 1
    assert all(len(state) == 3 for state in job.optimizer.state.values())


def test_moments_are_those_that_torch_makes() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    for parameter in (ours, theirs):
        parameter.grad = torch.full_like(parameter, 0.5)
    unused = torch.nn.Parameter(torch.ones(2))
    made, own = torch.optim.AdamW([ours, unused], fused=True), torch.optim.AdamW([theirs], fused=True)
    loop._allocate(made)
    assert unused not in made.state
    made.step()
    own.step()
    assert torch.equal(ours, theirs)
    assert made.state[ours].keys() == own.state[theirs].keys()
    for key, value in own.state[theirs].items():
        assert torch.equal(made.state[ours][key], value)
        assert made.state[ours][key].dtype == value.dtype


def test_an_evaluation_that_does_not_fit_is_computed_in_halves() -> None:
    base, texts = tiny_base("bert"), texts_of(*range(5, 25))
    sizes: list[int] = []

    class Tight(torch.nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            sizes.append(len(batch.lengths))
            if len(batch.lengths) > 3:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
            return torch.tensor(batch.lengths)[:, None].float()

    assert predict(Tight(), base, texts, CPU)[:, 0].tolist() == list(range(5, 25))
    assert max(sizes) == 20
    assert sum(size for size in sizes if size <= 3) == 20


def test_halves_end_at_one_and_pass_other_errors_on() -> None:
    def full(items: Sequence[int]) -> None:
        raise FULL

    def broken(items: Sequence[int]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(MemoryError, match="a single text does not fit into memory"):
        in_halves(full, [1, 2, 3])
    with pytest.raises(RuntimeError, match="mat1"):
        in_halves(broken, [1, 2, 3])


def test_without_a_number_of_texts_as_many_as_fit_pass_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses up to rounding, and an explicit number is taken as it is."""
    store = Store(str(tmp_path / "store"))
    whole = losses_of(job_of(tiny_recipe(tmp_path), store, 0), 3)
    monkeypatch.setattr(footprint, "CPU_BYTES", 1 << 17)
    monkeypatch.setattr(footprint, "LEAST_BYTES", 1 << 17)
    found: dict[int, list[int]] = {}
    for micro in (0, 6):
        job, sizes = job_of(tiny_recipe(tmp_path), store, 0), found.setdefault(micro, [])
        tight(job, 10**6, sizes)
        np.testing.assert_allclose(losses_of(job, 3, replace(CPU, micro_batch=micro)), whole, atol=1e-5)
    assert max(found[0]) < 8
    assert found[6] == [6, 2] * 3
