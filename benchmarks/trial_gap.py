"""Seconds per trial of trivial work: a warm Tune actor against a TorchTrainer inside a Tune function, alternating in one run.

    python benchmarks/trial_gap.py [--trials 6] [--rounds 2]

Each trial reports once and does nothing else, so what is measured is what lies between two trials. `first` includes starting the
first process of a round; `then` is the mean of the others.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from study.cluster.processes import quiet
from study.cluster.ray_session import ray_session


def main() -> None:
    """Run the rounds and print a line per shape and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6, help="trials a round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of both shapes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "log") as out:
        start = time.monotonic()
        with ray_session(SimpleNamespace(workers=1, cpus=1, gpus=0), None):
            print(f"Ray started in {time.monotonic() - start:.1f} s", file=out)
            gaps: dict[str, list[float]] = {}
            for number in range(options.rounds):
                for shape, trainable, reuse in shapes():
                    storage = f"{folder}/{shape.split()[0]}-{number}"
                    first, *then = seconds_per_trial(trainable, options.trials, reuse, storage)
                    gaps.setdefault(shape, []).extend(then)
                    print(f"round {number + 1}  {shape:<32} first {first:6.2f} s  then {statistics.mean(then):6.2f} s", file=out)
            means = {shape: statistics.mean(values) for shape, values in gaps.items()}
            for shape, mean in means.items():
                print(f"{shape:<32} {mean:6.2f} s a trial", file=out)
            warm, nested = means.values()
            print(f"ratio {nested / warm:.0f}", file=out)


def shapes() -> list[tuple[str, Any, bool]]:
    """(name, trainable, whether actors are reused) of each shape."""
    from ray import tune

    class Warm(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {"value": 0.0, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    def nested(config: dict[str, Any]) -> None:
        import ray.train
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        def work() -> None:
            ray.train.report({"value": 0.0})

        TorchTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"trial-{config['number']}", storage_path=config["storage"], callbacks=[TuneReportCallback()]
            ),
        ).fit()

    return [
        ("warm actor", tune.with_resources(Warm, {"cpu": 1}), True),
        ("TorchTrainer in a Tune function", tune.with_resources(nested, {"cpu": 0.01}), False),
    ]


def seconds_per_trial(trainable: Any, trials: int, reuse: bool, storage: str) -> list[float]:
    """Seconds from the end of one trial to the end of the next, one trial at a time; the first counts from the start."""
    from ray import tune

    ends: list[float] = [time.monotonic()]
    tune.Tuner(
        trainable,
        param_space={"number": tune.grid_search(list(range(trials))), "storage": storage},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse),
        run_config=tune.RunConfig(
            name="gap",
            storage_path=storage,
            verbose=0,
            callbacks=[notes_ends(ends)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False) if reuse else None,
        ),
    ).fit()
    return [after - before for before, after in itertools.pairwise(ends)]


def notes_ends(ends: list[float]) -> Any:
    """A Tune callback; its class is made late because ray is imported once the session has set its environment."""
    from ray import tune

    class Ends(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ends.append(time.monotonic())

        def __reduce__(self) -> tuple[Any, ...]:
            return object, ()  # Tune pickles its callbacks, and nothing reads that

    return Ends()


if __name__ == "__main__":
    main()
