"""The biLSTM with self-attention against its formulas, written out text by text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import Example, collate, token_types
from trainables.encoder.dropout import dropout_bits
from trainables.heads.bilstm import BiLSTM
from trainables.heads.classifier import Classifier, classifier
from trainables.stages.finetune import task_loss

LENGTHS = (9, 1, 14, 9)
SIZES = {"width": 6, "attention_width": 5, "hops": 3}


def reader(penalty: float = 0.0, inputs: int = 8) -> BiLSTM:
    made = BiLSTM(inputs, **SIZES, penalty=penalty)
    made.draw(torch.Generator().manual_seed(1))
    with torch.no_grad():  # so large that mixing up anything shows
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def one_way(lstm: torch.nn.LSTM, pieces: torch.Tensor, suffix: str) -> list[torch.Tensor]:
    """States of a text, by the equations of an LSTM, piece after piece."""
    w, u, b, c = (getattr(lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    hidden = cell = torch.zeros(lstm.hidden_size)
    states = []
    for x in pieces:
        i, f, g, o = (w @ x + b + u @ hidden + c).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    return states


def by_formula(model: BiLSTM, pieces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(M flattened, ||A A' - I||^2) of one text [n, W]."""
    ahead = one_way(model.lstm, pieces, "")
    back = one_way(model.lstm, pieces.flip(0), "_reverse")[::-1]
    states = torch.stack([torch.cat(pair) for pair in zip(ahead, back, strict=True)])  # H [n, 2u]
    scores = model.hops.weight @ torch.tanh(model.inner.weight @ states.T)  # [r, n]
    attention = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)  # A
    overlap = attention @ attention.T
    penalty = sum((overlap[i, j] - int(i == j)) ** 2 for i in range(len(overlap)) for j in range(len(overlap)))
    return (attention @ states).reshape(-1), penalty


def test_vectors_penalty_and_gradients_equal_the_formulas() -> None:
    model = reader(penalty=0.7).train()
    pieces = torch.randn(sum(LENGTHS), 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    towards = torch.randn(len(LENGTHS), model.vector_size, generator=torch.Generator().manual_seed(2))
    wanted = {"pieces": pieces} | dict(model.named_parameters())

    vectors, penalty = model(pieces, LENGTHS)
    found = torch.autograd.grad((vectors * towards).sum() + penalty, list(wanted.values()))
    each = [by_formula(model, text) for text in pieces.split(LENGTHS)]
    expected = torch.stack([vector for vector, _ in each]), 0.7 * sum(each[i][1] for i in range(len(each)))
    expected_gradients = torch.autograd.grad((expected[0] * towards).sum() + expected[1], list(wanted.values()))

    assert vectors.shape == (4, 3 * 2 * 6)
    torch.testing.assert_close(vectors, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(penalty, expected[1], rtol=1e-4, atol=1e-5)
    for name, ours, theirs in zip(wanted, found, expected_gradients, strict=True):
        assert theirs.abs().max() > 1e-3, name
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_the_penalty_counts_in_training_alone_and_only_if_asked_for() -> None:
    pieces = torch.randn(sum(LENGTHS), 8)
    assert reader(penalty=0.7).eval()(pieces, LENGTHS)[1] == 0.0
    assert reader(penalty=0.0).train()(pieces, LENGTHS)[1] == 0.0


def test_texts_do_not_touch_each_other() -> None:
    model = reader()
    texts = [torch.randn(length, 8) for length in LENGTHS]
    whole = model(torch.cat(texts), LENGTHS)[0]
    for i, text in enumerate(texts):
        torch.testing.assert_close(whole[i], model(text, (len(text),))[0][0], rtol=1e-5, atol=1e-6)
    texts[2] = torch.full_like(texts[2], 9.0)
    again = model(torch.cat(texts), LENGTHS)[0]
    assert torch.equal(again[[0, 1, 3]], whole[[0, 1, 3]])
    assert not torch.allclose(again[2], whole[2], atol=1e-3)


def test_initial_values() -> None:
    model, again = BiLSTM(8, 100, 50, 3, 0.0), BiLSTM(8, 100, 50, 3, 0.0)
    for each in (model, again):
        each.draw(torch.Generator().manual_seed(3))
    bounds = {"lstm": 100**-0.5, "inner": 200**-0.5, "hops": 50**-0.5}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        bound = bounds[name.split(".")[0]]
        assert 0.9 * bound < parameter.abs().max() <= bound, name
    assert not torch.equal(model.lstm.weight_hh_l0, model.lstm.weight_hh_l0_reverse)


def bilstm_classifier(base: Any, penalty: float = 0.0, **more: Any) -> Classifier:
    return classifier(base, 3, "bilstm", 0.3, 0, lstm=SIZES | {"penalty": penalty}, **more)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlnet", "modernbert"])
def test_on_an_encoder_it_equals_the_naive_loop(kind: str) -> None:
    """Each text alone through transformers' own encoder, two layers side by side, then the formulas."""
    base = tiny_base(kind)
    model = bilstm_classifier(base, layers=(0, 2)).eval()
    texts = examples_of(base, (9, 5, 14))
    assert model.reader is not None
    with torch.inference_mode():
        rows = []
        for example in texts:
            ids = torch.from_numpy(example.ids.astype(np.int64))[None]
            types = {"token_type_ids": torch.from_numpy(token_types(len(example.ids), base))[None]} if base.takes_types else {}
            found = base.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **types)
            pieces = torch.cat([found.hidden_states[1][0], found.last_hidden_state[0]], dim=-1)
            rows.append(by_formula(model.reader, pieces)[0])
        torch.testing.assert_close(model(collate(texts, base)), model.classifier(torch.stack(rows)), rtol=1e-4, atol=1e-5)


def test_the_encoder_below_is_trained_too() -> None:
    base = tiny_base("bert")
    model = bilstm_classifier(base).train()
    task_loss(model, collate(examples_of(base, (9, 5)), base)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for name, p in model.encoder.named_parameters() if "layer.0" in name)


@pytest.mark.parametrize("several", [False, True])
def test_micro_batches_change_neither_loss_nor_penalty(several: bool) -> None:
    base = tiny_base("bert")
    texts = [replace(text, label=np.array([0, 1, 1])) if several else text for text in examples_of(base, (9, 5, 14, 2, 7))]

    def trained(penalty: float, micro: int, frozen: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
        model, total = bilstm_classifier(base, penalty, frozen=frozen).train(), 0.0
        for start in range(0, len(texts), micro):
            batch = collate(texts[start : start + micro], base, before=texts[:start])
            with dropout_bits(7, 3, batch):
                loss = task_loss(model, batch)
            loss.backward()
            total += loss.item()
        return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    loss, gradients = trained(0.5, 5)
    for micro in (1, 2, 3):
        again, others = trained(0.5, micro)
        assert again == pytest.approx(loss, abs=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    model = bilstm_classifier(base).eval()
    assert model.reader is not None
    penalties = [by_formula(model.reader, model.features(collate([text], base)))[1].item() for text in texts]
    assert trained(0.5, 5, frozen=True)[0] - trained(0.0, 5, frozen=True)[0] == pytest.approx(0.5 * sum(penalties), rel=1e-4)


def test_in_bfloat16_it_stays_in_float32() -> None:
    model, pieces = reader().train(), torch.randn(sum(LENGTHS), 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = model(pieces.bfloat16(), LENGTHS)[0]
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, model(pieces.bfloat16().float(), LENGTHS)[0])


def test_one_class_and_a_text_of_special_tokens_alone() -> None:
    base = tiny_base("bert")
    model = classifier(base, 1, "bilstm", 0.0, 0, lstm=SIZES | {"penalty": 1.0}).train()
    batch = collate([Example(base.special.wrap(np.zeros(0, np.int32)), label=0)], base)
    loss = task_loss(model, batch)
    assert torch.isfinite(loss)
    assert F.cross_entropy(model(batch), batch.labels).item() == 0.0
