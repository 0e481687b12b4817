"""Long texts in fractions, against a loop written naively over transformers' outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import tiny_recipe
from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches import pack
from trainables.batches.pack import Example, collate
from trainables.data.splits import Split
from trainables.encoder.dropout import dropout_bits
from trainables.heads.classifier import Classifier, classifier
from trainables.settings.execution import Execution
from trainables.settings.stages import Finetune
from trainables.stages import run_recipe as runner
from trainables.stages.finetune import examples
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.run_recipe import evaluate_test
from trainables.store.store import Store

COUNTS = (3, 1, 2)


def texts_of(base: Any) -> list[Example]:
    """Three texts of 3, 1 and 2 fractions."""
    sequences = iter([example.ids for example in examples_of(base, (9, 9, 4, 7, 9, 2))])
    made = []
    for label, count in enumerate(COUNTS):
        mine = [next(sequences) for _ in range(count)]
        made.append(Example(np.concatenate(mine), label=label % 2, fractions=tuple(map(len, mine))))
    return made


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlnet", "modernbert", "albert"])
@pytest.mark.parametrize("join", ["mean", "max", "attention"])
def test_fractions_equal_the_naive_loop(kind: str, join: str) -> None:
    base = tiny_base(kind)
    model = classifier(base, 2, "cls", 0.0, 0, layers=(1, 2), fractions=join).eval()
    with torch.inference_mode():
        found = model(collate(texts_of(base), base))
        rows = []
        for text in texts_of(base):
            vectors = torch.cat([model.vectors(collate([sequence], base)) for sequence in text.sequences])  # [fractions, 2 H]
            if join == "attention":
                inner, score = model.join.inner, model.join.score  # a = softmax(u' tanh(W x + b) + c), sum of a x
                scores = torch.stack([score.weight[0] @ torch.tanh(inner.weight @ x + inner.bias) + score.bias[0] for x in vectors])
                weights = torch.exp(scores) / torch.exp(scores).sum()
                rows.append(sum(weight * x for weight, x in zip(weights, vectors, strict=True)))
            else:
                rows.append(vectors.mean(0) if join == "mean" else vectors.max(0).values)
        torch.testing.assert_close(found, model.classifier(torch.stack(rows)), rtol=1e-4, atol=1e-5)


def gradients(model: Classifier, base: Any, texts: list[Example], micro: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of a batch taken in micro-batches, with dropout."""
    model.zero_grad()
    logits = []
    for start in range(0, len(texts), micro):
        batch = collate(texts[start : start + micro], base, before=texts[:start])
        with dropout_bits(7, 3, batch):
            part = model(batch)
            nn.functional.cross_entropy(part, batch.labels, reduction="sum").backward()
        logits.append(part.detach())
    return torch.cat(logits), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
@pytest.mark.parametrize(("chunk", "micro"), [(9, 3), (20, 3), (1 << 14, 1), (9, 2)])
def test_chunks_and_micro_batches_change_nothing(kind: str, chunk: int, micro: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout on: the bits are those of the whole, also when a chunk is computed once more in the backward pass."""
    base = tiny_base(kind)
    model = classifier(base, 2, "pooled", 0.3, 0, fractions="attention").train()
    logits, expected = gradients(model, base, texts_of(base), 3)
    monkeypatch.setattr(pack, "CHUNK", chunk)
    again, found = gradients(model, base, texts_of(base), micro)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    with dropout_bits(8, 3, collate(texts_of(base), base)):
        assert not torch.allclose(model(collate(texts_of(base), base)), logits, atol=1e-3), "dropout does something"


def test_memory_holds_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps between forward and backward does not grow with the number of chunks."""
    monkeypatch.setattr(pack, "CHUNK", 16)
    base = tiny_base("bert")
    model = classifier(base, 2, "cls", 0.1, 0, fractions="mean").train()
    kept = []
    for count in (2, 12):
        ids = np.concatenate([examples_of(base, (16,))[0].ids] * count)
        batch = collate([Example(ids, label=1, fractions=(16,) * count)], base)
        assert len(batch.chunks) == count
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(0 if isinstance(tensor, nn.Parameter) else tensor.numel())
            return tensor

        with dropout_bits(0, 0, batch), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(batch)
        kept.append(sum(sizes))
    assert kept[1] - kept[0] < 10 * 16 * base.hidden_size, "less than one hidden state for each chunk more"


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [(21, 9, [21]), (22, 9, [22]), (23, 9, [22, 1]), (44, 9, [22, 22]), (45, 9, [22, 22, 1]), (45, 2, [22, 22]), (1, 9, [1])],
)
def test_how_a_text_is_divided(length: int, most: int, expected: list[int]) -> None:
    base = tiny_base("bert")
    stage = Finetune(max_length=24, truncation="hier-mean", max_fractions=most)
    ids = np.arange(10, 10 + length, dtype=np.int32)
    (made,) = examples(Split(("text",), np.array([1])), [ids], base, stage)  # type: ignore[arg-type]
    inner = [sequence.ids[1:-1] for sequence in made.sequences]
    assert [len(part) for part in inner] == expected
    assert np.array_equal(np.concatenate(inner), ids[: 22 * most])
    assert all(sequence.ids[0] == 3 and sequence.ids[-1] == 2 for sequence in made.sequences)
    assert made.label == 1


def test_a_text_of_95_fractions_and_the_count_of_what_is_cut(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"truncation": "hier-attention", "max_length": 12, "epochs": 2}
    recipe = tiny_recipe(tmp_path, **settings)
    path = Path(recipe.tasks["reviews"].train or "")
    path.write_text(path.read_text(encoding="utf-8") + '"' + "a good film, " * 5000 + '",1\n', encoding="utf-8")
    store = Store(str(tmp_path / "store"))
    rows = list(runner.run(recipe, store, Execution(threads=1)))
    assert rows[-1]["epoch"] == 2
    assert any(
        "finetune.max_fractions: 1 of " in text and "more than 95 fractions and are cut" in text for text in rows[0]["notices"]
    )
    assert evaluate_test(recipe, store, Execution(threads=1))["split"] == "test"
    again = list(runner.run(recipe, Store(str(tmp_path / "other")), Execution(threads=1, micro_batch=3)))
    assert [row["train_loss"] for row in again] == pytest.approx([row["train_loss"] for row in rows], abs=1e-5)


def test_the_cap_counts_only_for_fractions(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    last = nodes(Inputs(recipe))[-1].stage_id
    stage = recipe.stages[-1]
    changed = recipe.model_copy(update={"stages": (stage.model_copy(update={"max_fractions": 3}),)})
    assert nodes(Inputs(changed))[-1].stage_id == last
    hier = [stage.model_copy(update={"truncation": "hier-mean", "max_fractions": n}) for n in (3, 4)]
    ids = {nodes(Inputs(recipe.model_copy(update={"stages": (each,)})))[-1].stage_id for each in hier}
    assert len(ids | {last}) == 3
    assert (
        nodes(Inputs(recipe))[-1].tokens_estimate
        <= nodes(Inputs(recipe.model_copy(update={"stages": (hier[0],)})))[-1].tokens_estimate
    )
