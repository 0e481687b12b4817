"""Layer-wise decay against the paper's numbers, the schedule against transformers', AdamW against torch's reference."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from trainables.encoder.layers import freeze, layer_names, thaw
from trainables.training import optimizer as optim
from trainables.training import schedules

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}


def model(kind: str, layers: int, **fields: object) -> torch.nn.Module:
    return AutoModel.from_config(AutoConfig.for_model(kind, num_hidden_layers=layers, **(SMALL | fields)))


def test_rates_of_the_paper() -> None:
    """lr 2e-5, xi .95, 12 layers: layer 0 1.1376e-5, layer 5 1.4702e-5, layer 11 2e-5 (Sun et al. 2019, section 5.3.3)."""
    encoder = model("bert", 12)
    rates = optim.rates(optim.parameter_groups(encoder, encoder, 12, learning_rate=2e-5, xi=0.95))
    assert rates["layer 0"] == pytest.approx(1.1376e-5, rel=1e-4)
    assert rates["layer 5"] == pytest.approx(1.4702e-5, rel=1e-4)
    assert rates["layer 11"] == rates["head"] == 2e-5
    assert rates["embeddings"] == pytest.approx(rates["layer 0"] * 0.95)
    published = optim.parameter_groups(encoder, encoder, 12, learning_rate=2e-5, xi=0.95, variant="published")
    assert optim.rates(published)["embeddings"] == 2e-5
    assert (*rates,)[:1] + (*rates,)[-1:] == ("embeddings", "head")


def test_no_decay_for_biases_and_norms() -> None:
    encoder = model("bert", 2)
    groups = optim.parameter_groups(encoder, encoder, 2, learning_rate=1.0, weight_decay=0.01)
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}  # type: ignore[attr-defined]
    for name, parameter in encoder.named_parameters():
        assert (id(parameter) in free) == (name.endswith("bias") or "LayerNorm" in name), name


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (100, 0.0), (7, 0.5), (1, 0.1), (10, 1.0)])
def test_schedule_equals_transformers(total: int, warmup: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(total * warmup), total)
    for step in range(total):
        assert schedules.linear(step, total, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        optimizer.step()
        schedule.step()
    assert schedules.linear(total, total, warmup) == (1.0 if warmup == 1.0 and total == 0 else 0.0)


def test_adamw_equals_reference() -> None:
    """Fused against torch's single-tensor AdamW over 20 steps."""
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, reference = (torch.nn.Parameter(start.clone()) for _ in range(2))
    fused = optim.adamw([{"params": [ours], "lr": 1e-2, "weight_decay": 0.01}], beta1=0.9, beta2=0.999, epsilon=1e-6)
    plain = torch.optim.AdamW([reference], lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-6, foreach=False, fused=False)
    for step in range(20):
        for parameter, optimizer in ((ours, fused), (reference, plain)):
            parameter.grad = torch.sin(start * (step + 1)) + parameter.detach()
            optimizer.step()
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)


def test_thirds_of_the_layers() -> None:
    """Three groups by a factor of 2.6 (Howard and Ruder 2018, section 3.2), embeddings with the lowest, the head at the base."""
    encoder = model("bert", 12)
    rates = optim.rates(optim.parameter_groups(encoder, encoder, 12, learning_rate=2.0, thirds=2.6))
    assert [rates[f"layer {i}"] for i in range(12)] == pytest.approx([2 / 2.6] * 4 + [2.0] * 4 + [5.2] * 4)
    assert (rates["embeddings"], rates["head"]) == (pytest.approx(2 / 2.6), 2.0)
    published = optim.parameter_groups(encoder, encoder, 12, learning_rate=2.0, thirds=2.6, variant="published", head_rate=7.0)
    assert (optim.rates(published)["embeddings"], optim.rates(published)["head"]) == (2.0, 7.0)
    uneven = optim.rates(optim.parameter_groups(model("bert", 4), model("bert", 4), 4, learning_rate=1.0, thirds=2.0))
    assert set(uneven.values()) <= {0.5, 1.0, 2.0}


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (100, 0.0), (7, 0.5), (10, 1.0)])
def test_other_schedules_equal_transformers(total: int, warmup: float) -> None:
    theirs = {
        "cosine": get_cosine_schedule_with_warmup,
        "constant": lambda optimizer, ramp, total: get_constant_schedule_with_warmup(optimizer, ramp),
    }
    for name, make in theirs.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer, round(total * warmup), total)
        for step in range(total):
            assert schedules.SCHEDULES[name](step, total, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
            optimizer.step()
            schedule.step()


def test_slanted_triangle_is_the_formula() -> None:
    """Howard and Ruder 2018, equation 3, with T = 200, cut_frac = .1, ratio = 32, written out; and its corners."""
    total, cut_frac, ratio = 200, 0.1, 32
    cut = int(total * cut_frac)
    for t in range(total + 1):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert schedules.slanted(t, total, cut_frac) == pytest.approx((1 + p * (ratio - 1)) / ratio)
    assert schedules.slanted(0, total, cut_frac) == schedules.slanted(total, total, cut_frac) == 1 / 32
    assert schedules.slanted(cut, total, cut_frac) == 1.0
    assert all(schedules.slanted(t, 7, 0.3) >= 1 / 32 for t in range(8)), "a cut that is no whole number"
    assert schedules.slanted(0, 5, 0.0) == 1.0


@pytest.mark.parametrize(
    ("what", "trained"),
    [
        ("none", {"embeddings", "layer 0", "layer 1", "layer 2", "head"}),
        ("embeddings", {"layer 0", "layer 1", "layer 2", "head"}),
        (2, {"layer 2", "head"}),
        ("encoder", {"head"}),
    ],
)
def test_what_is_frozen(what: str | int, trained: set[str]) -> None:
    encoder = model("bert", 3)
    whole = torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(16, 2)})
    freeze(encoder, 3, what)
    assert set(optim.rates(optim.parameter_groups(whole, encoder, 3, learning_rate=1.0))) == trained


def test_thawing_from_the_top() -> None:
    encoder = model("bert", 3)
    freeze(encoder, 3, "embeddings")
    begin = thaw(encoder, 3, 2)
    names = layer_names(encoder, 3)

    def trained() -> set[str]:
        return {names[name] for name, parameter in encoder.named_parameters() if parameter.requires_grad and names[name] != "head"}

    for epoch, expected in ((0, set()), (1, {"layer 1", "layer 2"}), (2, {"layer 0", "layer 1", "layer 2"}), (0, set())):
        begin(epoch)
        assert trained() == expected, epoch
    free = model("bert", 3)
    thaw(free, 3, 1)(4)
    assert all(parameter.requires_grad for parameter in free.parameters()), "at last the embeddings"
