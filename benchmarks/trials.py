"""Trials per hour by the number of trials that share one device: processes side by side, without Ray.

    python -m benchmarks.trials [--device cpu|cuda] [--encoder small|base] [--side-by-side 1 2 4 8] [--trials 2] [--threads N]
        [--precision float32|bfloat16] [--json FILE] [--seconds N]

A trial fine-tunes the encoder, with random weights, for an epoch on the included sentences of sls_imdb and predicts its validation
split, through `run_recipe` and a local store. Each process computes one trial before the clock starts: imports, texts and kernels
are then there, as they are from a process's second trial on in a study.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.workload import REVIEWS, SHAPES
from trainables.settings.encoder import Encoder
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.stages import run_recipe
from trainables.store.store import Store


def main() -> None:
    """Measure each number of trials side by side; print a line for it and write all as JSON."""
    options = arguments().parse_args()
    deadline = time.monotonic() + options.seconds
    results: dict[int, dict[str, Any] | None] = dict.fromkeys(options.side_by_side)
    spawn = multiprocessing.get_context("spawn")
    processes = [ProcessPoolExecutor(1, spawn) for _ in range(max(options.side_by_side))]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for begun in [
                each.submit(trials, folder, [number], 1 / len(processes), options) for number, each in enumerate(processes)
            ]:
                begun.result()
            seeds = iter(range(len(processes), 10**6))
            for count in options.side_by_side:
                if time.monotonic() > deadline:
                    print(f"{count} side by side: not measured, the time was over")
                    continue
                start = time.perf_counter()
                running: list[Future[Any]] = [
                    each.submit(trials, folder, [next(seeds) for _ in range(options.trials)], 1 / count, options)
                    for each in processes[:count]
                ]
                memory = [each.result() for each in running]
                seconds = time.perf_counter() - start
                results[count] = row(count * options.trials, seconds, memory)
                print(line(count, results), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    finally:
        for each in processes:
            each.shutdown()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--encoder", choices=list(SHAPES), default="small")
    parser.add_argument("--side-by-side", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=2, help="trials of each process")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="a file for the results, written after each number of trials")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no measurement begins after so many")
    return parser


def recipe_of(encoder: str, precision: str, seed: int) -> Recipe:
    """One epoch on sls_imdb: trials differ in their seed."""
    files = {split: str(REVIEWS / "sls_imdb" / f"{split}.csv") for split in ("train", "test")}
    shape = SHAPES[encoder]
    return Recipe(
        tasks={"reviews": Task(**files, validation_share=0.1)},
        task="reviews",
        encoder=Encoder(config=shape, vocabulary=shape["vocab_size"]),
        stages=(Finetune(epochs=1, batch_size=24, max_length=128),),
        precision=precision,
        seed=seed,
    )


def trials(folder: str, seeds: list[int], share: float, options: argparse.Namespace) -> float | None:
    """Compute trials one after the other with a share of a GPU; the memory that this process has taken of it, in GiB."""
    execution = Execution(device=options.device, threads=options.threads, gpu_share=share, keep_weights=False)
    for seed in seeds:
        list(run_recipe.run(recipe_of(options.encoder, options.precision, seed), Store(folder), execution))
    return torch.cuda.max_memory_reserved() / 2**30 if options.device == "cuda" else None


def row(number: int, seconds: float, memory: list[float | None]) -> dict[str, Any]:
    """Trials per hour from a number of trials, and the memory of all processes."""
    known = [value for value in memory if value is not None]
    return {
        "trials": number,
        "seconds": seconds,
        "trials_per_hour": 3600 * number / seconds,
        "memory_gib": sum(known) if known else None,
    }


def line(count: int, results: dict[int, dict[str, Any] | None]) -> str:
    """The result of so many side by side, and how it compares with the first."""
    first, last = next(filter(None, results.values())), results[count] or {}
    memory = "" if last["memory_gib"] is None else f", {last['memory_gib']:.1f} GiB"
    gain = last["trials_per_hour"] / first["trials_per_hour"]
    return f"  {count} side by side  {last['trials_per_hour']:8.0f} trials/h  x {gain:.2f}{memory}"


if __name__ == "__main__":
    main()
