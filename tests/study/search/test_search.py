"""The search: resumed = undisturbed, states told rightly, a journal that others can read; early stopping as Ray decides it."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from analysis.figures.study_figures import NOT_DRAWN
from study.definition.models import EarlyStopping, Resources, SearchSettings, Study
from study.definition.samplers import SAMPLERS
from study.definition.space import setting_id
from study.definition.study_file import load_study
from study.search.early_stopping import Stopping, asha_stops
from study.search.history import Past, history, trial_name, trial_number
from study.search.search import Search, different_settings, repeats, trial_count
from tests.study.definition.test_study_file import CHOICES_ONLY, changed

Told = tuple[str, float | None, dict[int, float]]


def study(**changes: Any) -> Study:
    return load_study(changed(**({"budget__trials": 14, "search__startup_trials": 4} | changes)))


def outcome(number: int, params: dict[str, Any]) -> Told:
    """How a trial of a made-up objective ends: every fourth is stopped, some diverge or fail."""
    error = 10 + 3 * abs(math.log10(params.get("finetune.learning_rate", 2e-5)) + 4.3) - params.get("pretrain.steps", 0) / 10
    values = {epoch: error + 3 - epoch for epoch in (1, 2, 3)}
    if number % 4 == 3:
        return "stopped", None, {1: values[1]}
    if number % 7 == 5:
        return "diverged", None, {1: values[1], 2: math.nan}
    if number % 7 == 6:
        return "failed", None, {}
    return "complete", values[3], values


def finish(search: Search) -> list[Past]:
    """Run a search to its end, one trial at a time."""
    past = []
    while (asked := search.ask()) is not None:
        number, params = asked
        state, value, values = outcome(number, params)
        search.tell(number, state, value, values)
        past.append(Past(number, params, state, value, values))
    return past


@pytest.fixture(scope="module", params=["tpe", "random", "grid"])
def undisturbed(request: pytest.FixtureRequest) -> tuple[Study, list[Past]]:
    space = {"space": CHOICES_ONLY, "search__first": []} if request.param == "grid" else {}
    made = study(search__sampler=request.param, **space)
    return made, finish(Search(made))


def test_a_resumed_search_asks_what_an_undisturbed_one_asks(undisturbed: tuple[Study, list[Past]]) -> None:
    made, whole = undisturbed
    assert [each.number for each in whole] == list(range(6 if made.search.sampler == "grid" else 14))
    for k in range(len(whole) + 1):
        assert finish(Search(made, whole[:k])) == whole[k:]


def test_an_unfinished_trial_is_asked_again_first(undisturbed: tuple[Study, list[Past]]) -> None:
    made, whole = undisturbed
    for k in range(len(whole)):
        begun = Past(k, whole[k].params, None, None, dict(list(whole[k].intermediate.items())[:1]))
        assert finish(Search(made, [*whole[:k], begun])) == whole[k:]


def test_a_trial_whose_asking_was_not_recorded_is_asked_again(undisturbed: tuple[Study, list[Past]]) -> None:
    made, whole = undisturbed
    search = Search(made, whole[:2] + whole[3:5])
    assert search.ask() == (2, whole[2].params)
    search.tell(2, *outcome(2, whole[2].params))
    assert search.ask() == (5, whole[5].params)


def test_several_unfinished_at_once() -> None:
    made = study()
    search = Search(made)
    asked = [search.ask() for _ in range(5)]
    assert [each[0] for each in asked if each] == [0, 1, 2, 3, 4]
    past = [Past(number, params) for number, params in (each for each in asked if each)]
    again = Search(made, past)
    assert [again.ask() for _ in range(5)] == asked
    assert again.ask() == search.ask()


def test_first_points_come_first() -> None:
    points = [{"finetune.truncation": "head"}, {"finetune.truncation": "tail", "pretrain.steps": 8}]
    made = study(search__first=points)
    search = Search(made)
    assert [search.ask(), search.ask()] == [(0, made.first_points()[0]), (1, made.first_points()[1])]
    assert made.first_points()[1]["pretrain.steps"] == 8


def test_seed_and_number_decide() -> None:
    drawn = [[each.params for each in finish(Search(study(search__seed=seed)))] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({setting_id(params) for params in drawn[0]}) == 14


def test_the_budget_ends_it_and_a_raised_one_goes_on() -> None:
    short, long = study(budget__trials=5), study(budget__trials=9)
    past = finish(Search(short))
    assert len(past) == 5
    assert Search(short, past).exhausted
    assert finish(Search(long))[:5] == past
    assert finish(Search(long, past)) == finish(Search(long))[5:]


def test_a_grid_ends_when_it_is_exhausted_and_skips_given_points() -> None:
    made = study(space=CHOICES_ONLY, search={"sampler": "grid", "first": [{"finetune.truncation": "tail", "pretrain.steps": 8}]})
    asked = [each.params for each in finish(Search(made))]
    assert asked[0] == {"finetune.truncation": "tail", "pretrain.steps": 8}
    assert len({setting_id(params) for params in asked}) == len(asked) == 6


@pytest.mark.parametrize(
    ("space", "first", "trials", "different"),
    [
        ({"finetune.xi": {"choice": [0.9, 1.0]}}, [], 6, 2),
        ({"finetune.xi": {"choice": [0.9, 1.0]}}, [], 2, 2),
        ({"finetune.epochs": {"int": [1, 9], "step": 4}, "finetune.xi": {"choice": [0.9, 1.0]}} , [], 40, 6),
        ({"finetune.epochs": {"int": [1, 9]}, "finetune.xi": {"uniform": [0.9, 1.0]}}, [], 40, 40),
        # head_tokens is there under one of three truncations only: 2 + 3 settings.
        (
            {
                "finetune.truncation": {"choice": ["head", "tail", "head+tail"]},
                "finetune.head_tokens": {"choice": [4, 6, 8], "when": {"finetune.truncation": "head+tail"}},
            },
            [],
            40,
            5,
        ),
        ({"finetune.xi": {"choice": [0.9, 1.0]}}, [{"finetune.xi": 0.9}], 6, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_settings_of_a_space_are_counted(
    space: dict[str, Any], first: list[Any], trials: int, different: int, sampler: str
) -> None:
    if sampler == "grid" and any("uniform" in dimension for dimension in space.values()):
        return  # refused: test_config
    recipe = [{"finetune": {"max_length": 24, "head_tokens": 6, "epochs": 3}}]
    made = study(space=space, recipe=recipe, search={"sampler": sampler, "first": first}, budget__trials=trials)
    asked = [each.params for each in finish(Search(made))]
    assert different_settings(made) == different
    assert len(asked) == trial_count(made) == (min(trials, different) if sampler == "grid" else trials)
    assert len({setting_id(params) for params in asked}) <= different
    said = repeats(made)
    assert (said is None) == (len(asked) <= different)
    if said is not None:
        assert f"{different} different settings, and the budget is {trials} trials: at least {trials - different} " in said


def test_an_empty_space_is_one_trial() -> None:
    made = load_study(changed(space=None, search=None, recipe=[{"finetune": {}}]))
    assert [each.params for each in finish(Search(made))] == [{}]


def test_states_in_optuna(tmp_path: Path) -> None:
    made = study()
    past = finish(Search(made, journal=tmp_path / "optuna.journal"))
    told = _journal(tmp_path / "optuna.journal", made)
    assert [trial.number for trial in told] == list(range(14))
    for trial, each in zip(told, past, strict=True):
        finite = {epoch: value for epoch, value in each.intermediate.items() if math.isfinite(value)}
        assert trial.intermediate_values == finite
        assert trial.user_attrs["setting"] == setting_id(each.params)
        expected = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}[str(each.state)]
        assert trial.state.name == expected
        assert trial.value == {"COMPLETE": each.value, "PRUNED": finite.get(1), "FAIL": None}[expected]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_complete_trial_without_a_finite_value_has_failed(value: float | None) -> None:
    search = Search(study())
    search.ask()
    search.report(0, 1, value)
    search.tell(0, "complete", value)
    assert [(trial.state.name, trial.value, trial.intermediate_values) for trial in search.optuna.trials] == [("FAIL", None, {})]


def test_the_journal_is_rebuilt_from_the_records(tmp_path: Path) -> None:
    made, path = study(), tmp_path / "optuna.journal"
    whole = finish(Search(made, journal=path))
    before = _journal(path, made)
    path.write_bytes(path.read_bytes()[:-40] + b"torn")
    os.symlink(path, f"{path}.lock")  # what a killed session leaves
    Path(f"{path}.rebuilt").write_bytes(b"half")
    search = Search(made, whole, journal=path)
    after = _journal(path, made)
    assert sorted(os.listdir(tmp_path)) == ["optuna.journal"]
    facts = [
        [(t.number, t.state, t.value, t.params, t.distributions, t.intermediate_values, t.user_attrs) for t in trials]
        for trials in (before, after)
    ]
    assert facts[0] == facts[1]
    assert search.exhausted


def test_a_running_trial_is_seen_live(tmp_path: Path) -> None:
    made, path = study(), tmp_path / "optuna.journal"
    search = Search(made, journal=path)
    search.ask()
    search.report(0, 1, 25.0)
    (trial,) = _journal(path, made)
    assert (trial.state.name, trial.intermediate_values) == ("RUNNING", {1: 25.0})


def test_lists_are_values_of_a_choice() -> None:
    made = study(**{"space__pretrain.corpus": {"choice": [["mine"], ["mine", "other"]]}, "search__first": []})
    past = finish(Search(made))
    assert {each.params["pretrain.corpus"] for each in past} == {("mine",), ("mine", "other")}
    assert finish(Search(made, past[:6])) == past[6:]
    assert made.recipe_for(past[0].params, 0).stages[0].canonical()["corpus"] == list(past[0].params["pretrain.corpus"])


def test_history_of_records() -> None:
    made = study()
    params = {"finetune.truncation": "head", "pretrain.corpus": ["mine"]}
    rows: list[dict[str, Any]] = [
        {"event": "study", "status": "started"},
        {"event": "trial", "trial": "t001", "phase": "search", "params": params, "status": "started", "stage_ids": ["a"]},
        {"event": "trial", "trial": "t000", "phase": "search", "params": {}, "status": "started", "error_rate_percent": None},
        _row("t000", 1.0, 30.0),
        _row("t000", 1.0, 70.0, split="train"),
        _row("t000", 1.0, 71.0, stage_name="pretrain"),
        _row("t000", 2.0, 20.0),
        {"event": "trial", "trial": "t000", "phase": "search", "params": {}, "status": "complete", "error_rate_percent": 20.0},
        _row("t001", 1.0, 40.0),
        {"event": "trial", "trial": "f00", "phase": "final", "params": {}, "status": "complete", "error_rate_percent": 1.0},
        _row("f00", 1.0, 1.0),
    ]
    assert history(made, rows) == [
        Past(0, {}, "complete", 20.0, {1: 30.0, 2: 20.0}, {"error_rate_percent": 20.0}),
        Past(1, {"finetune.truncation": "head", "pretrain.corpus": ("mine",)}, None, None, {1: 40.0}, {"stage_ids": ["a"]}),
    ]


def _row(trial: str, epoch: float, error: float, split: str = "validation", stage_name: str = "finetune") -> dict[str, Any]:
    about = {"event": "evaluation", "trial": trial, "epoch": epoch, "error_rate_percent": error}
    return about | {"split": split, "stage_name": stage_name}


def _journal(path: Path, made: Study) -> list[optuna.trial.FrozenTrial]:
    """Trials as another process reads them."""
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name=made.name, storage=optuna.storages.JournalStorage(backend)).trials


# early stopping -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grace", "reduction"), [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (3, 3)])
def test_decisions_are_those_of_ray(grace: int, reduction: int) -> None:
    """Random errors in random order, trials interleaved, ties included."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    rng, longest, decisions = random.Random(f"{grace}/{reduction}"), 13, Counter[str]()
    for _ in range(30):
        theirs = AsyncHyperBandScheduler("epoch", "error", "min", max_t=longest, grace_period=grace, reduction_factor=reduction)
        ours = Stopping(EarlyStopping(grace_epochs=grace, reduction=reduction))
        coarse = rng.random() < 0.5
        at = dict.fromkeys(range(12), 0)
        trials = {number: SimpleNamespace(trial_id=str(number)) for number in at}
        for trial in trials.values():
            theirs.on_trial_add(None, trial)
        while at:
            number = rng.choice(list(at))
            at[number] += 1
            error = rng.uniform(5, 40) if not coarse else rng.randrange(10, 20) / 2
            if at[number] == longest:  # a trial's last epoch ends it by itself
                theirs.on_trial_complete(None, trials[number], {"epoch": longest, "error": error})
                ours.report(number, longest, error, decide=False)
                del at[number]
                continue
            decision = theirs.on_trial_result(None, trials[number], {"epoch": at[number], "error": error})
            assert ours.report(number, at[number], error) == (decision == "STOP")
            decisions[decision] += 1
            if decision == "STOP":
                del at[number]
    assert min(decisions["STOP"], decisions["CONTINUE"]) > 100


def test_early_stopping_knows_what_was_before_a_resume() -> None:
    rng, settings = random.Random(0), EarlyStopping(grace_epochs=1, reduction=2)
    whole, past, told = Stopping(settings), list[Past](), 0
    for number in range(20):
        resumed = Stopping(settings, past)
        values: dict[int, float] = {}
        for epoch in range(1, 9):
            values[epoch] = rng.uniform(5, 40)
            stops = whole.report(number, epoch, values[epoch])
            assert resumed.report(number, epoch, values[epoch]) == stops
            # Killed after the value was recorded and before the decision was: the decision is the same again.
            again = Stopping(settings, [*past, Past(number, {}, None, None, dict(values))])
            assert again.report(number, epoch, values[epoch]) == stops
            told += stops
            if stops:
                break
        past.append(Past(number, {}, "stopped" if stops else "complete", None, values))
    assert 5 < told < 20


def test_a_trial_once_let_through_is_not_stopped_when_it_is_replayed() -> None:
    settings = EarlyStopping(grace_epochs=1, reduction=2)
    better = [Past(number, {}, "complete", 1.0, {1: 1.0, 2: 1.0, 3: 1.0}) for number in range(1, 5)]
    stopping = Stopping(settings, [Past(0, {}, None, None, {1: 30.0, 2: 20.0}), *better])
    assert not stopping.report(0, 1, 30.0)
    assert stopping.report(0, 2, 20.0)


def test_what_is_not_finite_stops_and_does_not_count() -> None:
    assert asha_stops({1: math.nan}, [], 1, 1, 3)
    assert asha_stops({1: math.inf}, [], 1, 1, 3)
    assert not asha_stops({1: 30.0}, [{1: math.nan}], 1, 1, 3)
    assert Stopping(EarlyStopping(kind="none")).report(0, 1, math.nan)


def test_no_early_stopping() -> None:
    stopping = Stopping(EarlyStopping(kind="none"))
    assert not any(stopping.report(number, epoch, 10.0 * number + epoch) for number in range(5) for epoch in (1, 2, 3))


def test_names() -> None:
    assert [trial_name(7), trial_name(1234)] == ["t007", "t1234"]
    assert trial_number(trial_name(1234)) == 1234


# with Ray -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    from study.cluster.ray_session import ray_session

    with ray_session(Resources(), None):
        yield


def test_under_ray_tune(local_ray: None, tmp_path: Path) -> None:
    from ray import tune

    from study.cluster.tune_adapters import TuneAsha, TuneSearcher

    class Toy(tune.Trainable):  # type: ignore[misc]
        """Every fifth trial raises, every fifth diverges, one has no metric; the others go down from a height by number."""

        def setup(self, config: dict[str, Any]) -> None:
            self.config, self.epoch = config, 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            number = int(self.config["trial"][1:])
            if number % 5 == 3:
                raise RuntimeError("broken")
            if number % 5 == 4 and self.epoch == 2:
                return {"status": "diverged", "reason": "loss", "done": True, "objective_percent": math.nan, "epoch": 2}
            if number == 10:
                return {"status": "complete", "done": True}
            done = self.epoch == 4
            return {
                "epoch": float(self.epoch),
                "objective_percent": 50.0 - 5 * self.epoch + (1 if number % 2 else -1) * number,
                "status": "complete" if done else "running",
                "done": done,
            }

    made = study(search__early_stopping={"reduction": 2})
    search, stopping, ended = Search(made, journal=tmp_path / "optuna.journal"), Stopping(made.search.early_stopping), {}
    searcher = TuneSearcher(
        search,
        stopping,
        config=lambda number, params: {"params": params, "seed": 0},
        max_concurrent=2,
        ended=lambda number, state, result: ended.update({number: (state, result.get("epoch"))}),
    )
    tuner = tune.Tuner(
        Toy,
        tune_config=tune.TuneConfig(search_alg=searcher, scheduler=TuneAsha(stopping), num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="toy",
            storage_path=str(tmp_path / "tune"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    results = tuner.fit()
    assert len(results) == 14
    trials = _journal(tmp_path / "optuna.journal", made)
    states = {trial.number: trial.state.name for trial in trials}
    assert [number for number, state in states.items() if number % 5 == 3] == [3, 8, 13]
    assert all(states[number] == "FAIL" for number in (3, 8, 13, 10))
    assert {states[number] for number in (4, 9)} <= {"FAIL", "PRUNED"}
    assert Counter(states.values())["COMPLETE"] >= 3
    assert Counter(states.values())["PRUNED"] >= 1
    assert "RUNNING" not in states.values()
    for trial in trials:
        if trial.state.name == "PRUNED":
            assert trial.intermediate_values
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
            assert trial.number in stopping.stopped
        if trial.state.name == "COMPLETE":
            assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
            assert trial.value == trial.intermediate_values[4]
    words = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
    assert {number: words[state] for number, (state, _) in ended.items()} == states


def test_out_of_time_asks_for_nothing_more() -> None:
    from study.cluster.tune_adapters import TuneSearcher

    over = False
    search = Search(study())
    searcher = TuneSearcher(search, Stopping(EarlyStopping()), lambda number, params: {}, 2, out_of_time=lambda: over)
    assert searcher.suggest("a") == {"trial": "t000"}
    assert searcher.suggest("b") == {"trial": "t001"}
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", {"status": "complete", "objective_percent": 10.0, "epoch": 3})
    searcher.on_trial_complete("b", {"status": "running", "objective_percent": 10.0, "epoch": 1})  # taken down
    over = True
    assert searcher.suggest("d") == searcher.FINISHED
    assert [trial.state.name for trial in search.optuna.trials] == ["COMPLETE", "RUNNING"]


# Given points --------------------------------------------------------------------------------------------------------------------

POINTS = [{"finetune.xi": 1.0}, {"finetune.xi": 0.9, "finetune.truncation": "tail"}, {}]


def given(**changes: Any) -> Study:
    search = {"sampler": "given", "first": POINTS, "labels": ["flat", "tail", "as it is"], "early_stopping": "none"}
    return load_study(
        changed(space={}, recipe=[{"finetune": {}}], search=search, budget={"trials": 3}, final={"top_k": 3}) | changes
    )


def test_given_points_are_tried_in_their_order_and_no_other() -> None:
    made = given()
    whole = finish(Search(made))
    assert [each.params for each in whole] == [
        {"finetune.truncation": "head+tail", "finetune.xi": 1.0},
        {"finetune.truncation": "tail", "finetune.xi": 0.9},
        {"finetune.truncation": "head+tail", "finetune.xi": 0.95},
    ]
    assert [made.label_of(each.params) for each in whole] == ["flat", "tail", "as it is"]
    for k in range(4):
        assert finish(Search(made, whole[:k])) == whole[k:]
    assert len(finish(Search(given(budget={"trials": 2}, final={"top_k": 1})))) == 2


def test_epochs_that_are_not_whole_are_no_values_of_the_search() -> None:
    made = study()
    row = {"event": "evaluation", "trial": "t000", "split": "validation", "stage_name": "finetune", "error_rate_percent": 5.0}
    rows = [{"event": "trial", "trial": "t000", "params": {}}, *(row | {"epoch": epoch} for epoch in (0.25, 0.75, 1, 1.5, 2.0))]
    (past,) = history(made, rows)
    assert list(past.intermediate) == [1, 2]


def test_every_sampler_is_explained_to_users_and_in_reports() -> None:
    """The names of a study file are those of the table; the figure of budgets says of each why its trials are not independent."""
    explained = SearchSettings.model_fields["sampler"].description or ""
    assert list(NOT_DRAWN) == list(SAMPLERS)
    assert all(f"{name}: " in explained for name in SAMPLERS)
    for name in SAMPLERS:
        assert SearchSettings(sampler=name).how is SAMPLERS[name]
    with pytest.raises(ValueError, match="Input should be 'tpe', 'random', 'grid' or 'given'"):
        SearchSettings(sampler="sobol")
