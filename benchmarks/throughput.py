"""Tokens per second: our loop against transformers' Trainer, alternating in one run on the same texts.

    python -m benchmarks.throughput [--device cpu|cuda] [--encoder small|base] [--what train|predict ...] [--texts long|short ...]
        [--batch 24 ...] [--steps 4 ...] [--precision float32|bfloat16] [--rounds 2] [--threads N] [--json FILE] [--seconds N]

The same encoder, batch, dropout .1, AdamW, clipping and precision; no weights are downloaded. The peers are Trainer as it is, with
SDPA, which pads to the longest text of a batch; Trainer with `group_by_length`, whose batches are a sample of those that its
sampler makes, at even distances; on a GPU with flash_attn installed, Trainer with `flash_attention_2`. In prediction the peer by
length gets sorted texts. A batch that does not fit into a peer's memory is computed in the fewest parts that do. Only real tokens
count.

Each round measures the device's own matrix products too. Utilisation is the share of their rate at which a contestant computes the
products of the model itself, without padding and recomputation; ours leaves out those of the last block that nothing reads, which
count. Ours trains those word embeddings that occur in the texts, as fine-tuning does. Joules are those of the GPU's own counter.

`long`: reviews joined to lengths like IMDb's (lognormal, mean 230 pieces, at most 512). `short`: the sentences of sls_imdb as they
are. Each contestant has a process of its own, so that what one sets up does not help or hinder the other; while one runs, the
others sleep (with the tiny encoder, which tries the script, all share one). Threads that wait give up their core, as in a study,
unless the environment says otherwise (`OMP_WAIT_POLICY=active`). On a CPU part of our lead is a setting of the C library
that keeps freed memory (`process_memory.py`): so Trainer runs both as it is shipped and with that setting. Needs the extra
`[bench]`, and a machine that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contestants import ours, peers, prepare, theirs
from benchmarks.workload import Workload, base_encoder, examples_of, flops_per_token, grouped_by_length, product_rate
from trainables.training.precision import cpu_speedup

POOL = 50
"""Batches from which those that are grouped by length are drawn."""
MORE = {"long": 1, "short": 2}
"""Factor of the measured batches: a batch of short texts takes less time."""
Call = Callable[..., Any]


def main() -> None:
    """Run the rounds, print a line for each measurement and the medians, and write them as JSON."""
    options = arguments().parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of all contestants, before their processes start
    prepare(options.threads)
    if options.precision == "bfloat16" and options.device == "cpu" and (speedup := cpu_speedup()) < 1:
        print(f"bfloat16 is {1 / speedup:.0f} times slower than float32 on this CPU: use --seconds or few --steps")
    half, sizes = options.precision == "bfloat16", zip(options.batch, options.steps * len(options.batch), strict=False)
    works = [
        Workload(what, options.encoder, texts, batch, steps * MORE[texts], half, options.device)
        for what, texts, (batch, steps) in product(options.what, options.texts, sizes)
    ]
    call, close = one_process() if options.encoder == "tiny" else processes(options.threads)
    deadline = time.monotonic() + options.seconds
    rounds: dict[str, list[dict[str, Any]]] = {work.name: [] for work in works}
    for number, work in product(range(options.rounds), works):
        if time.monotonic() > deadline:
            continue
        rounds[work.name].append(compared(work, number, call))
        if options.json:
            write(options.json, rounds)
    close()
    print(f"\n{options.encoder} encoder, {options.precision}, {torch.get_num_threads()} threads, medians")
    for name, results in rounds.items():
        print("\n".join(lines_of(name, results)))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--encoder", choices=["tiny", "small", "base"], default="small")
    parser.add_argument("--what", choices=["train", "predict"], nargs="+", default=["train"])
    parser.add_argument("--texts", choices=["long", "short"], nargs="+", default=["long"])
    parser.add_argument("--batch", type=int, nargs="+", default=[24])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[4], help="measured batches by batch size; of short texts twice as many"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--json", type=Path, help="a file for the results, written after each measurement")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no measurement begins after so many")
    return parser


def processes(threads: int) -> tuple[Call, Callable[[], None]]:
    """(calls a function in the process of a contestant, ends the processes): ours, Trainer's, and Trainer's that keeps memory."""
    spawn = multiprocessing.get_context("spawn")
    made = {
        key: ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(threads, key == "kept"))
        for key in ("ours", "theirs", "kept")
    }

    def close() -> None:
        for process in made.values():
            process.shutdown()

    return lambda key, function, *given: made[key].submit(function, *given).result(), close


def one_process() -> tuple[Call, Callable[[], None]]:
    """The same within this process."""
    return lambda key, function, *given: function(*given), lambda: None


def compared(work: Workload, number: int, call: Call) -> dict[str, Any]:
    """{contestant: what it measured} of one round, and the rate of the products."""
    base = base_encoder(work.encoder)
    pool = examples_of(base, work.texts, max(work.count, POOL * work.batch))
    order = np.random.default_rng(number).permutation(len(pool))[: work.count]
    shuffled = [pool[i] for i in order]
    found: dict[str, Any] = {"ours": call("ours", ours, work, shuffled)}
    for peer in peers(work.device):
        texts = by_length(work, pool, shuffled) if peer.by_length else shuffled
        found[peer.name] = call("kept" if peer.keeps_memory else "theirs", theirs, peer, work, texts)
        found[peer.name]["flops_per_token"] = flops_per_token(base, texts, work.what)
    found["ours"]["flops_per_token"] = flops_per_token(base, shuffled, work.what)
    rate = call("ours", product_rate, base, work.half, work.device)
    for each in found.values():
        if "tokens_per_s" in each:
            each["utilisation"] = each["tokens_per_s"] * each["flops_per_token"] / rate
    print(
        f"{work.name}: products {rate / 1e12:.3g} TFLOP/s; " + "; ".join(short(name, each) for name, each in found.items()),
        flush=True,
    )
    return {"products_flops": rate, "contestants": found}


def by_length(work: Workload, pool: Sequence[Any], shuffled: Sequence[Any]) -> list[Any]:
    """The texts of the peer by length: the batches of Trainer's sampler, or in prediction the same texts, sorted."""
    if work.what == "train":
        return grouped_by_length(pool, work.batch, work.steps + 1)
    measured = sorted(shuffled[work.batch :], key=lambda example: len(example.ids), reverse=True)
    return [*shuffled[: work.batch], *measured]


def short(name: str, found: dict[str, Any]) -> str:
    return f"{name} {found['fault']}" if "fault" in found else f"{name} {found['tokens_per_s']:.0f} tokens/s"


def medians(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{contestant: median of each number over the rounds}, with `ratio`, ours over it in the same round, and faults."""
    found: dict[str, dict[str, Any]] = {}
    for name in results[0]["contestants"] if results else ():
        each = [result["contestants"][name] for result in results]
        fault = next((one["fault"] for one in each if "fault" in one), None)
        if fault is not None:
            found[name] = {"fault": fault}
            continue
        keys = ("tokens_per_s", "utilisation", "joules_per_token", "peak_memory_gib", "parts")
        rates = [
            result["contestants"]["ours"]["tokens_per_s"] / one["tokens_per_s"] for result, one in zip(results, each, strict=True)
        ]
        found[name] = {key: middle([one.get(key) for one in each]) for key in keys} | {"ratio": statistics.median(rates)}
    return found


def middle(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def lines_of(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """The medians of a workload as lines of a table."""
    if not results:
        return [f"{name}: not measured, the time was over"]
    form = "  {:<32}{:>10}{:>9}{:>10}{:>13}{:>7}{:>7}"
    lines = [form.format(name, "tokens/s", "ours/it", "products", "mJ/token", "GiB", "parts")]
    for contestant, found in medians(results).items():
        if "fault" in found:
            lines.append(f"  {contestant:<32}{found['fault']}")
            continue
        cells = (
            ("tokens_per_s", "{:.0f}"),
            ("ratio", "{:.2f}"),
            ("utilisation", "{:.1%}"),
            ("joules_per_token", "{:.3g}"),
            ("peak_memory_gib", "{:.1f}"),
            ("parts", "{:.0f}"),
        )
        numbers = found | {"joules_per_token": None if found["joules_per_token"] is None else 1000 * found["joules_per_token"]}
        lines.append(
            form.format(contestant, *("-" if numbers[key] is None else shape.format(numbers[key]) for key, shape in cells))
        )
    return lines


def write(path: Path, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """{workload: rounds and medians} as JSON; workloads without a round were not reached in time."""
    named = {name: {"medians": medians(results), "rounds": results} for name, results in rounds.items()}
    path.write_text(json.dumps(named, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
