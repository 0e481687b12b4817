"""Our loop and transformers' Trainer, each on the same texts: tokens per second, joules per token, memory.

Only real tokens count, never padding. The first batch warms up and is not measured.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers import logging as transformers_logging

from benchmarks.workload import DROPOUT, RATE, Meter, Workload, base_encoder
from trainables.batches.pack import Example
from trainables.encoder import process_memory
from trainables.encoder.occurring_embedding import train_occurring
from trainables.heads.classifier import classifier
from trainables.scores.evaluate import predict
from trainables.stages.finetune import cross_entropy
from trainables.training import optimizer, schedules
from trainables.training.loop import Job, Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

PARTS = (1, 2, 4, 8)
"""Micro-batches per step of Trainer, the first number with which the batch fits into memory."""


@dataclass(frozen=True)
class Peer:
    """One way to run transformers' Trainer."""

    name: str
    by_length: bool = False
    """Batches of similar length: `group_by_length` in training, sorted texts in prediction."""
    attention: str = "sdpa"
    keeps_memory: bool = False
    """With the setting of the C library that keeps freed memory (`process_memory.py`), which a user of Trainer could make too."""


def peers(device: str) -> list[Peer]:
    """Those that this machine can run."""
    found = [Peer("Trainer"), Peer("Trainer by length", by_length=True)]
    if device == "cpu":
        return [*found, *(Peer(f"{peer.name}, memory kept", peer.by_length, keeps_memory=True) for peer in found)]
    flash = [Peer("Trainer flash_attention_2", attention="flash_attention_2")] if find_spec("flash_attn") else []
    return found + flash


def prepare(threads: int, keep_memory: bool = False) -> None:
    """Threads, memory, silence and the one GPU of a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Trainer would spread its batches over all GPUs that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if threads:
        torch.set_num_threads(threads)
    if keep_memory:
        process_memory.keep_freed()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def ours(work: Workload, examples: Sequence[Example]) -> dict[str, Any]:
    """Our loop, or our prediction."""
    base, device = base_encoder(work.encoder), torch.device(work.device)
    model = classifier(base, 2, "pooled", DROPOUT, seed=0).to(device)
    runtime = Runtime(device, World(), "bfloat16" if work.half else "float32", save_at=lambda step: step == 1)
    measured = our_training if work.what == "train" else our_prediction
    found = measured(work, model, examples, runtime, Meter(work.device))
    del model
    free(work.device)
    return found


def our_training(work: Workload, model: Any, examples: Sequence[Example], runtime: Runtime, meter: Meter) -> dict[str, Any]:
    base, steps = base_encoder(work.encoder), work.steps + 1
    train_occurring(model.encoder, np.concatenate([example.ids for example in examples]))  # as fine-tuning does
    groups = optimizer.parameter_groups(model, model.encoder, base.layers, learning_rate=RATE, xi=0.95, weight_decay=0.01)
    job = Job(
        base=base,
        model=model,
        optimizer=optimizer.adamw(groups, beta1=0.9, beta2=0.999, epsilon=1e-6),
        steps=steps,
        rate=lambda step: schedules.linear(step, steps, 0.1),
        examples=lambda step: examples[step * work.batch : (step + 1) * work.batch],
        loss=cross_entropy,
        weight=len,
        evaluate_at=frozenset(),
        evaluate=lambda step, model: {},
        clip_norm=1.0,
        seed=0,
    )
    at = Position()

    def warm(at: Position) -> None:
        if at.step == 1:
            meter.start()

    list(train(job, runtime, at, steps, warm))
    return meter.stop(sum(len(example.ids) for example in examples[work.batch :]))


def our_prediction(work: Workload, model: Any, examples: Sequence[Example], runtime: Runtime, meter: Meter) -> dict[str, Any]:
    base, measured = base_encoder(work.encoder), examples[work.batch :]
    predict(model.eval(), base, examples[: work.batch], runtime)
    meter.start()
    predict(model, base, measured, runtime)
    return meter.stop(sum(len(example.ids) for example in measured))


class Clock(TrainerCallback):  # type: ignore[misc]
    """Starts the meter after the first step, which warms up, and stops it after the last; counts the real tokens between."""

    def __init__(self, meter: Meter, steps: int) -> None:
        self.meter, self.steps, self.done, self.tokens = meter, steps, 0, 0
        self.found: dict[str, Any] = {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.done == 1:
            self.meter.start()
        elif self.done == self.steps:
            self.found = self.meter.stop(self.tokens)


def theirs(peer: Peer, work: Workload, examples: Sequence[Example]) -> dict[str, Any]:
    """Trainer over the examples in their order; in as many micro-batches as memory asks for, by their number in `parts`.

    A batch that does not fit in any number of parts, or any other error, is the answer: {"fault": its text}.
    """
    measured = their_training if work.what == "train" else their_prediction
    fault = ""
    for parts in PARTS if work.batch >= PARTS[-1] else PARTS[:1]:
        try:
            return measured(peer, work, examples, parts) | {"parts": parts}
        except torch.OutOfMemoryError as error:
            fault = str(error).partition("\n")[0]
        except Exception as error:  # of the peer's own: a contestant less, and the others count
            return {"fault": f"{type(error).__name__}: {error}".partition("\n")[0]}
        finally:
            free(work.device)
    return {"fault": fault}


def their_training(peer: Peer, work: Workload, examples: Sequence[Example], parts: int) -> dict[str, Any]:
    clock = Clock(Meter(work.device), work.steps + 1)
    clock.tokens = sum(len(example.ids) for example in examples[work.batch :])
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(peer, work, folder, parts, examples, [clock])
        trainer.train()
    return clock.found


def their_prediction(peer: Peer, work: Workload, examples: Sequence[Example], parts: int) -> dict[str, Any]:
    measured, meter = examples[work.batch :], Meter(work.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(peer, work, folder, parts, examples[: work.batch], [])
        trainer.predict(rows_of(examples[: work.batch]))
        meter.start()
        trainer.predict(rows_of(measured))
        return meter.stop(sum(len(example.ids) for example in measured))


def rows_of(examples: Sequence[Example]) -> Any:
    """Examples as Trainer takes them."""
    return [{"input_ids": example.ids.tolist(), "labels": example.label} for example in examples]


def trainer_of(
    peer: Peer, work: Workload, folder: str, parts: int, examples: Sequence[Example], callbacks: list[TrainerCallback]
) -> Any:
    """transformers' Trainer with our settings, its loading of batches as fast as it goes."""
    base, given = base_encoder(work.encoder), {"num_labels": 2, "attn_implementation": peer.attention}
    if base.folder is not None:
        model = AutoModelForSequenceClassification.from_pretrained(base.folder, dtype=torch.float32, **given)
    else:
        config = type(base.config).from_dict(base.config.to_dict() | {"num_labels": 2})
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=peer.attention)
    on_gpu = work.device == "cuda"
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=work.batch // parts,
        per_device_eval_batch_size=work.batch // parts,
        gradient_accumulation_steps=parts,
        max_steps=work.steps + 1,
        learning_rate=RATE,
        weight_decay=0.01,
        warmup_steps=0.1,
        bf16=work.half,
        use_cpu=not on_gpu,
        train_sampling_strategy="sequential",  # the batches are made already
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=4 if on_gpu and work.what == "train" else 0,  # every prediction would start them anew
        dataloader_pin_memory=on_gpu,
    )
    trainer = Trainer(model, arguments, train_dataset=rows_of(examples), processing_class=base.tokenizer, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def free(device: str) -> None:
    """Return the memory of a GPU that nothing uses any more, for the other processes. A Trainer lies in cycles of references."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
