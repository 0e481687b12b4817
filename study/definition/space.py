"""The search space as data: which fields of the recipe vary, over which values, under which conditions.

A dimension is named by the path `<stage name>.<field>`. A condition (`when`) compares the value of another field in the trial: the
sampled one, else the fixed one. Parameters of a trial are a plain dict {path: value} that holds the active dimensions only. Imports
no optuna until something is sampled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from trainables.settings.base import Settings
from trainables.settings.corpus_names import short
from trainables.settings.errors import ConfigError
from trainables.settings.stages import head_in_proportion

if TYPE_CHECKING:
    import optuna

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Scalar = bool | int | float | str
Value = Scalar | tuple[int | str, ...]
Params = dict[str, Any]
"""{path: value} of the active dimensions of one trial."""
KINDS = ("log_uniform", "uniform", "int", "choice")
NOT_SEARCHED = ("name", "kind")


class Dimension(Settings):
    """How one field varies: give one of log_uniform, uniform, int, choice."""

    log_uniform: tuple[float, float] | None = None
    """[lower, upper], uniform in the logarithm."""
    uniform: tuple[float, float] | None = None
    """[lower, upper]."""
    int: tuple[Whole, Whole] | None = None
    """[lower, upper] in whole numbers, both included."""
    choice: tuple[Value, ...] | None = None
    """The values to choose from; a list of names is one value."""
    log: bool = False
    """With `int`: uniform in the logarithm."""
    step: Annotated[Whole, Field(ge=1)] = 1
    """With `int`: distance between two values."""
    when: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Conditions {path: value or list of values}, all of which must hold; else the field keeps its fixed value."""

    @model_validator(mode="after")
    def _sound(self) -> Dimension:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a dimension needs exactly one of {', '.join(KINDS)}; given: {', '.join(kinds) or 'none'}")
        faults = [*self._bound_faults(kinds[0]), *self._choice_faults()]
        if self.int is None and (self.log or self.step > 1):
            faults.append("log and step belong to int dimensions only")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _bound_faults(self, kind: str) -> Iterator[str]:
        if self.choice is not None:
            return
        lower, upper = getattr(self, kind)
        if lower >= upper:
            yield f"{kind}: the lower bound {lower:g} must be below the upper bound {upper:g}"
        if lower <= 0 and (kind == "log_uniform" or self.log):
            yield f"{kind}: bounds on a logarithmic scale must be above 0, given: {lower:g}"
        if kind == "int" and self.step > 1 and self.log:
            yield "int: log and step do not go together"
        elif kind == "int" and lower < upper and (upper - lower) % self.step:
            last = upper - (upper - lower) % self.step
            yield f"int: the upper bound {upper} is no whole number of steps of {self.step} above {lower}; the last value is {last}"

    def _choice_faults(self) -> Iterator[str]:
        if self.choice is None:
            return
        if not self.choice:
            yield "choice: no value given"
        seen: list[Value] = []
        for value in self.choice:
            if any(same(value, other) for other in seen):
                yield f"choice: {shown(value)} is given twice"
            seen.append(value)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(lower, upper) of a range; None for choices."""
        return self.log_uniform or self.uniform or self.int

    @property
    def values(self) -> Sequence[Value] | None:
        """All values in order, for choices and whole numbers; None for other ranges."""
        if self.int is not None:
            return range(self.int[0], self.int[1] + 1, self.step)
        return self.choice

    def corners(self) -> tuple[Value, ...]:
        """Return all choices, or both bounds."""
        return self.choice if self.choice is not None else self.bounds or ()

    def holds(self, value: Any) -> bool:
        """Whether `value` can be drawn."""
        if self.choice is not None:
            return any(same(value, choice) for choice in self.choice)
        lower, upper = self.bounds or (math.nan, math.nan)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lower <= value <= upper:
            return False
        return self.int is None or (isinstance(value, int) and (value - self.int[0]) % self.step == 0)

    def allowed(self) -> str:
        """Return the allowed values in words, for messages."""
        if self.choice is not None:
            return "one of " + ", ".join(map(shown, self.choice))
        lower, upper = self.bounds or (math.nan, math.nan)
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{'a whole number ' if self.int else ''}from {lower:g} to {upper:g}{steps}"

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the Optuna distribution of this dimension."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution([_encode(value) for value in self.choice])
        if self.int is not None:
            return IntDistribution(*self.int, log=self.log, step=self.step)
        lower, upper = self.bounds or (math.nan, math.nan)
        return FloatDistribution(lower, upper, log=self.log_uniform is not None)


Space = Mapping[str, Dimension]


def ordered(space: Space) -> list[str]:
    """Return the paths so that conditions come before dependent dimensions, else by name: the order in the file does not matter.

    Raises ConfigError for circular conditions.
    """
    done: list[str] = []
    left = sorted(space)
    while left:
        ready = [path for path in left if not any(parent in left for parent in space[path].when)]
        if not ready:
            raise ConfigError([f"space: the conditions of {', '.join(left)} are circular"])
        done += ready
        left = [path for path in left if path not in ready]
    return done


def is_active(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Whether all conditions of a dimension hold; `values` are the fixed values, overridden by the sampled ones."""
    return all(any(same(values.get(path), wanted) for wanted in listed(when)) for path, when in dimension.when.items())


def suggest(trial: optuna.trial.Trial, space: Space, fixed: Mapping[str, Any]) -> Params:
    """Draw the parameters of one trial, conditions first."""
    params: Params = {}
    for path in ordered(space):
        if is_active(space[path], {**fixed, **params}):
            params[path] = _decode(space[path], _suggest(trial, path, space[path]))
    return params


def _suggest(trial: optuna.trial.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return trial.suggest_categorical(path, [_encode(value) for value in dimension.choice])
    if dimension.int is not None:
        return trial.suggest_int(path, *dimension.int, log=dimension.log, step=dimension.step)
    lower, upper = dimension.bounds or (math.nan, math.nan)
    return trial.suggest_float(path, lower, upper, log=dimension.log_uniform is not None)


def to_optuna(params: Params, space: Space) -> tuple[dict[str, Any], dict[str, optuna.distributions.BaseDistribution]]:
    """Return (values, distributions) of a trial as Optuna stores them. Lists become JSON text, since choices must be scalars."""
    return {path: _encode(value) for path, value in params.items()}, {path: space[path].distribution() for path in params}


def complete(point: Params, space: Space, fixed: Mapping[str, Any]) -> Params:
    """Complete a point: active dimensions that it does not name get their fixed values. In the order of sampling."""
    params: Params = {}
    for path in ordered(space):
        if is_active(space[path], {**fixed, **params}):
            value = point[path] if path in point else left_out(path, point, fixed)
            params[path] = tuple(value) if isinstance(value, list) else value
    return params


def left_out(path: str, point: Params, fixed: Mapping[str, Any]) -> Any:
    """Return the value of a field that a point does not name: the fixed one; for an unset `head_tokens` one by `max_length`."""
    stage, _, field = path.rpartition(".")
    if field != "head_tokens" or fixed[path] is not None:
        return fixed[path]
    length = f"{stage}.max_length"
    return head_in_proportion(point.get(length, fixed[length]))


def spanned(points: Iterable[Params], fixed: Mapping[str, Any]) -> dict[str, Dimension]:
    """Return the smallest space of choices with these points, over all fields that a point names; others have the fixed value."""
    points = list(points)
    paths = dict.fromkeys(path for point in points for path in point if path in fixed)
    space: dict[str, Dimension] = {}
    for path in paths:
        values: list[Any] = []
        for point in points:
            value = point[path] if path in point else left_out(path, point, fixed)
            value = tuple(value) if isinstance(value, list) else value
            if value is not None and not any(same(value, other) for other in values):
                values.append(value)
        space[path] = Dimension(choice=tuple(values))
    return space


def any_point(space: Space, fixed: Mapping[str, Any]) -> Params:
    """Return a point of the space: the fixed value if it lies in the dimension, else the first choice or the lower bound."""
    params: Params = {}
    for path in ordered(space):
        if is_active(space[path], {**fixed, **params}):
            params[path] = fixed[path] if space[path].holds(fixed[path]) else space[path].corners()[0]
    return params


def grid(space: Space, fixed: Mapping[str, Any]) -> Iterator[Params]:
    """Yield every point of a space of choices and whole numbers; the last dimension in order varies fastest."""

    def extended(params: Params, paths: list[str]) -> Iterator[Params]:
        if not paths:
            yield params
        elif is_active(space[paths[0]], {**fixed, **params}):
            for value in space[paths[0]].values or ():
                yield from extended({**params, paths[0]: value}, paths[1:])
        else:
            yield from extended(params, paths[1:])

    return extended({}, ordered(space))


def fixed_values(stages: Mapping[str, Settings]) -> dict[str, Any]:
    """Return {path: fixed value} of every field that can be searched."""
    return {
        f"{name}.{field}": getattr(stage, field)
        for name, stage in stages.items()
        for field in type(stage).model_fields
        if field not in NOT_SEARCHED
    }


def with_params(name: str, stage: Settings, params: Params) -> dict[str, Any]:
    """Return the settings of the stage called `name` as plain data: the fixed ones, overridden by the trial's."""
    sampled = {path.partition(".")[2]: value for path, value in params.items() if path.partition(".")[0] == name}
    return stage.model_dump(mode="json") | sampled


def extremes(path: str, space: Space, fixed: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return values of a field that include its smallest and largest in the study: those of its dimension, or the fixed one."""
    if path not in space:
        return (fixed[path],)
    return space[path].corners() + ((fixed[path],) if space[path].when else ())


def setting_id(params: Params) -> str:
    """Return the name of a setting: 8 hex digits of the hash of its parameters."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:8]


def describe(params: Params) -> str:
    """Format a setting briefly for tables: `lr 2.0e-5, xi .95, head+tail 6, 100 steps`."""
    fields = [path.rpartition(".")[2] for path in params]
    words = {}
    for path, value in params.items():
        stage, _, field = path.rpartition(".")
        words[path] = (f"{stage} " if fields.count(field) > 1 else "") + _phrase(field, value)
    for path in [path for path in params if path.endswith(".head_tokens")]:
        if (ends := path.replace("head_tokens", "truncation")) in words:
            words[ends] += f" {params[path]}"
            del words[path]
    return ", ".join(words[path] for path in sorted(words, key=_rank))


_SHORT = {"learning_rate": "lr", "xi": "xi", "truncation": "", "pooling": "", "batch_size": "batch", "max_length": "length"}
_AFTER = {"steps": "steps", "epochs": "epochs"}


def _rank(path: str) -> tuple[int, str]:
    """Place of a field in a description: the learning rate first, further pre-training last."""
    order = [*_SHORT, *_AFTER]
    field = path.rpartition(".")[2]
    return (order.index(field) if field in order else len(_SHORT), path)


def _phrase(field: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        text = "+".join(short(item) if isinstance(item, str) else str(item) for item in value)
    else:
        text = value if isinstance(value, str) else _number(value)
    if field in _AFTER:
        return f"{text} {_AFTER[field]}"
    return f"{_SHORT.get(field, field)} {text}".strip()


def _number(value: bool | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if 0 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:.3g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"


def listed(when: Any) -> tuple[Any, ...]:
    """Return the values of a condition as a tuple, also for a single value."""
    return tuple(when) if isinstance(when, list | tuple) else (when,)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, where true differs from 1, and a list equals a tuple."""
    a, b = (tuple(x) if isinstance(x, list) else x for x in (a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def shown(value: Any) -> str:
    """Format a value as in a study file."""
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _encode(value: Any) -> Any:
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def _decode(dimension: Dimension, value: Any) -> Any:
    return next((choice for choice in dimension.choice or () if isinstance(choice, tuple) and _encode(choice) == value), value)
