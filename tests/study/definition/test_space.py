"""The space: what is drawn, when a dimension is active, how settings are named and described."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest

from study.definition.space import (
    Dimension,
    any_point,
    complete,
    describe,
    extremes,
    grid,
    is_active,
    ordered,
    setting_id,
    suggest,
    to_optuna,
)
from trainables.settings.errors import ConfigError

SPACE = {
    "finetune.learning_rate": Dimension(log_uniform=(1e-5, 2e-4)),
    "finetune.xi": Dimension(uniform=(0.8, 1.0)),
    "finetune.truncation": Dimension(choice=("head", "tail", "head+tail")),
    "finetune.head_tokens": Dimension(int=(2, 20), when={"finetune.truncation": "head+tail"}),
    "finetune.batch_size": Dimension(int=(8, 32), step=8),
    "finetune.epochs": Dimension(int=(1, 64), log=True),
    "pretrain.steps": Dimension(choice=(0, 50, 100)),
    "pretrain.corpus": Dimension(choice=(("a",), ("a", "b")), when={"pretrain.steps": (50, 100)}),
    "pretrain.whole_word": Dimension(choice=(False, True)),
}
FIXED: dict[str, Any] = {
    "finetune.learning_rate": 2e-5,
    "finetune.xi": 0.95,
    "finetune.truncation": "head+tail",
    "finetune.head_tokens": 128,
    "finetune.batch_size": 24,
    "finetune.epochs": 4,
    "finetune.pooling": "pooled",
    "pretrain.steps": 0,
    "pretrain.corpus": (),
    "pretrain.whole_word": False,
}


def draws(count: int, space: dict[str, Dimension] = SPACE) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space, FIXED) for _ in range(count)]


def test_draws_lie_in_the_space_and_hold_active_dimensions_only() -> None:
    found = draws(300)
    for params in found:
        assert all(SPACE[path].holds(value) for path, value in params.items())
        assert ("finetune.head_tokens" in params) == (params["finetune.truncation"] == "head+tail")
        assert ("pretrain.corpus" in params) == (params["pretrain.steps"] in (50, 100))
    for path in ("finetune.truncation", "pretrain.steps", "pretrain.corpus", "pretrain.whole_word", "finetune.batch_size"):
        assert {params[path] for params in found if path in params} == set(SPACE[path].values or ())
    small = sum(params["finetune.learning_rate"] < 4.5e-5 for params in found)  # half of the range in the logarithm
    assert 120 < small < 180


def test_params_survive_json() -> None:
    for params in draws(20):
        again = json.loads(json.dumps(params))
        assert setting_id(again) == setting_id(params)
        assert complete(again, SPACE, FIXED) == params


def test_the_order_of_the_file_does_not_matter() -> None:
    backwards = dict(reversed(SPACE.items()))
    assert ordered(backwards) == ordered(SPACE)
    assert draws(5, backwards) == draws(5)
    order = ordered(SPACE)
    assert order.index("finetune.truncation") < order.index("finetune.head_tokens")
    assert order.index("pretrain.steps") < order.index("pretrain.corpus")


def test_conditions_in_a_circle() -> None:
    space = {"a.x": Dimension(choice=(1,), when={"a.y": 1}), "a.y": Dimension(choice=(1,), when={"a.x": 1})}
    with pytest.raises(ConfigError, match=r"a\.x, a\.y are circular"):
        ordered(space)


def test_conditions_look_at_fixed_values_too() -> None:
    dimension = Dimension(choice=(1, 2), when={"finetune.pooling": ("mean", "pooled"), "pretrain.whole_word": False})
    assert is_active(dimension, FIXED)
    assert not is_active(dimension, FIXED | {"finetune.pooling": "cls"})
    assert not is_active(dimension, FIXED | {"pretrain.whole_word": 0})  # 0 is not false


def test_an_inactive_parent_counts_with_its_fixed_value() -> None:
    space = {
        "a.x": Dimension(choice=(0, 1)),
        "a.y": Dimension(choice=("u", "v"), when={"a.x": 1}),
        "a.z": Dimension(choice=(7, 8), when={"a.y": "v"}),
    }
    fixed = {"a.x": 0, "a.y": "v", "a.z": 9}
    assert list(grid(space, fixed)) == [
        {"a.x": 0, "a.z": 7},
        {"a.x": 0, "a.z": 8},
        {"a.x": 1, "a.y": "u"},
        {"a.x": 1, "a.y": "v", "a.z": 7},
        {"a.x": 1, "a.y": "v", "a.z": 8},
    ]


def test_grid_is_every_point_once() -> None:
    chosen = {path: SPACE[path] for path in ("finetune.truncation", "finetune.head_tokens", "pretrain.steps", "pretrain.corpus")}
    points = list(grid(chosen, FIXED))
    assert len(points) == (2 + 19) * (1 + 2 * 2)
    assert len({setting_id(point) for point in points}) == len(points)
    assert list(grid({}, FIXED)) == [{}]


def test_a_huge_grid_is_not_listed() -> None:
    points = grid({"a.x": Dimension(int=(1, 10**12)), "a.y": Dimension(choice=(1, 2))}, {})
    assert [next(points) for _ in range(3)] == [{"a.x": 1, "a.y": 1}, {"a.x": 1, "a.y": 2}, {"a.x": 2, "a.y": 1}]


def test_whole_numbers() -> None:
    assert list(SPACE["finetune.batch_size"].values or ()) == [8, 16, 24, 32]
    assert [SPACE["finetune.batch_size"].holds(value) for value in (8, 12, 8.0, 40, True)] == [True, False, False, False, False]


def test_any_point_keeps_fixed_values_where_it_can() -> None:
    point = any_point(SPACE, FIXED)
    assert point["finetune.xi"] == 0.95
    assert point["finetune.head_tokens"] == 2  # 128 is outside
    assert "pretrain.corpus" not in point
    assert complete({}, SPACE, FIXED)["finetune.head_tokens"] == 128


def test_extremes() -> None:
    assert extremes("finetune.batch_size", SPACE, FIXED) == (8, 32)
    assert extremes("finetune.head_tokens", SPACE, FIXED) == (2, 20, 128)  # fixed where the condition does not hold
    assert extremes("finetune.pooling", SPACE, FIXED) == ("pooled",)


def test_optuna_takes_lists_as_text() -> None:
    values, distributions = to_optuna({"pretrain.corpus": ("a", "b"), "finetune.xi": 0.9}, SPACE)
    assert values == {"pretrain.corpus": '["a", "b"]', "finetune.xi": 0.9}
    assert all(distributions[path]._contains(distributions[path].to_internal_repr(value)) for path, value in values.items())


def test_setting_id_depends_on_values_only() -> None:
    a = {"x.a": 1, "x.b": 0.5}
    assert setting_id(a) == setting_id(dict(reversed(a.items())))
    assert len(setting_id(a)) == 8
    assert setting_id(a) != setting_id(a | {"x.b": 0.25})


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (
            {
                "pretrain.steps": 100,
                "finetune.xi": 0.95,
                "finetune.truncation": "head+tail",
                "finetune.learning_rate": 2e-5,
                "finetune.head_tokens": 6,
            },
            "lr 2.0e-5, xi .95, head+tail 6, 100 steps",
        ),
        ({"finetune.truncation": "head", "finetune.xi": 1.0}, "xi 1, head"),
        ({"finetune.head_tokens": 6, "finetune.batch_size": 16}, "batch 16, head_tokens 6"),
        ({"pretrain.corpus": ("a", "b"), "pretrain.whole_word": True}, "corpus a+b, whole_word yes"),
        ({"pretrain.learning_rate": 1e-4, "finetune.learning_rate": 2.345e-5}, "finetune lr 2.3e-5, pretrain lr 1.0e-4"),
        ({"finetune.layers": (0, 11), "finetune.combine": "max"}, "combine max, layers 0+11"),
        ({}, ""),
    ],
)
def test_describe(params: dict[str, Any], text: str) -> None:
    assert describe(params) == text
