"""A step of any kind of stage and head makes the host wait for no GPU.

In the place of a GPU stands torch's device `meta`, where tensors have shapes and no numbers: whatever reads a number raises. Copies
between devices, and operations on tensors of both, are looked at one by one. What the kernels of a GPU do inside is not seen here.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers import documents_file, marks_recipe, multitask_recipe, tiny_recipe
from tests.trainables.training.test_loop import job_of
from trainables.batches.pack import Example
from trainables.encoder import dropout
from trainables.encoder.recompute import recompute_blocks
from trainables.settings.recipe import Recipe
from trainables.settings.task import Task
from trainables.store.store import Store
from trainables.training import loop, memory
from trainables.training.loop import Job, Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

GPU = torch.device("meta")
STEPS = 2


class Enough(Exception):
    """So many steps are taken."""


class Copies(TorchDispatchMode):
    """Copies between devices: each without waiting, from page-locked memory, of a tensor that was not copied before."""

    def __init__(self) -> None:
        super().__init__()
        self.locked: dict[int, Tensor] = {}
        self.sources: list[int] = []

    def lock(self, tensor: Tensor) -> Tensor:
        """In place of `pin_memory`, which needs a GPU."""
        self.locked[tensor.data_ptr()] = tensor
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device and args[0].numel():
            assert kwargs.get("non_blocking"), "a copy that waits"
            assert args[0].data_ptr() in self.locked, "a copy from memory that is not page-locked, for which the host waits"
            self.sources.append(args[0].data_ptr())
        else:
            devices = {tensor.device.type for tensor in tree_leaves(args) if isinstance(tensor, Tensor) and tensor.ndim}
            assert len(devices) < 2 or args[0].numel() == 0, f"{func} on tensors of several devices"
        return out


def on_gpu(job: Job) -> None:
    """Move a job's model, and its optimizer along; AdamW's fused kernel does not exist there."""
    before = dict(job.model.named_parameters(remove_duplicate=False))
    job.model.to(GPU)
    after = dict(job.model.named_parameters(remove_duplicate=False))
    moved = {id(before[name]): after[name] for name in before}
    for group in job.optimizer.param_groups:
        group["params"] = [moved.get(id(parameter), parameter) for parameter in group["params"]]
    job.optimizer.step = lambda closure=None: None  # type: ignore[method-assign]
    job.loss = getattr(job.loss, "func", job.loss) if not getattr(job.loss, "keywords", None) else _moved(job.loss)


def _moved(loss: Any) -> Any:
    """A partial loss with its class weights where the job would have put them."""
    kept = {name: value.to(GPU) if isinstance(value, Tensor) else value for name, value in loss.keywords.items()}
    return lambda model, batch: loss.func(model, batch, **kept)


class StandIn(nn.Module):
    """In place of an LSTM, whose packed form does not exist there: any map of packed pieces."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.map = nn.Linear(lstm.input_size, 2 * lstm.hidden_size)

    def forward(self, packed: Any) -> tuple[Any, None]:
        return packed._replace(data=self.map(packed.data)), None


def steps_of(job: Job, monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Take some steps."""
    plain, copies = job.examples, Copies()

    def examples(step: int) -> Any:
        if step == STEPS:
            raise Enough
        return plain(step)

    job.examples, job.evaluate_at = examples, frozenset()
    monkeypatch.setattr(memory, "room", lambda *_: 2**30)
    monkeypatch.setattr(loop, "_on_host", lambda norm: lambda: 1.0)  # needs an event of a GPU
    monkeypatch.setattr(loop, "dropout_bits", lambda *_: nullcontext())  # needs a generator of a GPU
    monkeypatch.setattr(dropout, "accelerated", lambda device: False, raising=False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: copies.lock(tensor))
    on_gpu(job)
    with copies, pytest.raises(Enough):
        list(train(job, Runtime(GPU, World()), Position(), STEPS + 1, lambda at: None))
    assert len(copies.sources) == len(set(copies.sources)) > STEPS
    return copies


def several_labels(folder: Path, **finetune: Any) -> Recipe:
    lines = ["text,a,b", *(f"some words of text {i} here,{i % 2},{int(i % 3 == 0)}" for i in range(60))]
    (folder / "several.csv").write_text("\n".join(lines))
    file = str(folder / "several.csv")
    task = Task(train=file, test=file, validation_share=0.25, label=("a", "b"), multi_label=True)
    return tiny_recipe(folder, **finetune).model_copy(update={"tasks": {"reviews": task}})


FINETUNE: dict[str, dict[str, Any]] = {
    "cls": {"pooling": "cls", "head": "mlp"},
    "pooled": {"pooling": "pooled", "label_smoothing": 0.1},
    "mean": {"pooling": "mean", "class_weights": "balanced"},
    "biLSTM": {"pooling": "bilstm", "lstm_width": 8, "attention_penalty": 0.1},
    "fractions, mean": {"truncation": "hier-mean", "max_length": 12},
    "fractions, attention": {"truncation": "hier-attention", "max_length": 12},
    "layers": {"layers": (0, 1), "combine": "max"},
    "joined layers": {"layers": (0, 1), "combine": "concat", "pooling": "mean"},
    "adapters": {"lora_rank": 2},
    "one layer frozen": {"freeze": 1},
    "gradual unfreezing": {"unfreeze_layers": 1},
}
OTHERS = ["mlm", "mlm+nsp", "multitask", "marks", "several labels", "checkpointing"]


def recipe_of(kind: str, folder: Path) -> Recipe:
    if kind in FINETUNE:
        return tiny_recipe(folder, **FINETUNE[kind])
    if kind.startswith("mlm"):
        return tiny_recipe(folder, pretrain={"objective": kind, "corpus": (documents_file(folder, *(3, 4, 1, 3) * 8),)})
    if kind == "multitask":
        return multitask_recipe(folder)
    if kind == "marks":
        return marks_recipe(folder, {"threshold": 0.9, "stop_words": "none"})
    if kind == "several labels":
        return several_labels(folder, class_weights="balanced", label_smoothing=0.1)
    return tiny_recipe(folder)


@pytest.mark.parametrize("kind", [*FINETUNE, *OTHERS])
def test_a_step_waits_for_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(recipe_of(kind, tmp_path), Store(str(tmp_path / "store")), 0)
    if kind == "biLSTM":
        job.model.reader.lstm = StandIn(job.model.reader.lstm)  # type: ignore[union-attr]
    if kind == "checkpointing":
        recompute_blocks(job.model.encoder)
    steps_of(job, monkeypatch)


def reads(model: Any, batch: Any) -> Tensor:
    """A loss that reads a number."""
    logits: Tensor = model(batch)
    return logits.sum() if logits.mean() > 0 else logits.sum() * 2


def from_a_list(model: Any, batch: Any) -> Tensor:
    """A loss that builds a tensor from numbers of the host."""
    logits: Tensor = model(batch)
    return logits.sum() * torch.tensor(list(batch.lengths)).to(logits.device).sum()


@pytest.mark.parametrize(("loss", "error"), [(reads, RuntimeError), (from_a_list, AssertionError)])
def test_waiting_is_seen(loss: Any, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above stands on."""
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    job.loss = loss
    with pytest.raises(error):
        steps_of(job, monkeypatch)


def test_micro_batches_are_built_ahead(tmp_path: Path) -> None:
    """All that a step copies is made by the thread that prepares it, from `examples` on."""
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    seen: list[str] = []

    class Noted(list[Example]):
        def __getitem__(self, key: Any) -> Any:
            seen.append(threading.current_thread().name)
            return super().__getitem__(key)

    plain = job.examples
    job.examples = lambda step: Noted(plain(step))
    list(train(job, Runtime(torch.device("cpu"), World()), Position(), 3, lambda at: None))
    assert len(seen) >= 3
    assert threading.main_thread().name not in seen
