"""Memory of a training step on the CPU against the estimate that bounds micro-batches (`trainables/training/memory.py`).

    python benchmarks/step_memory.py [--shape minilm] [--layers 6] [--dtype float32]

A line per kind of step: estimated and measured MiB, and their ratio. Measured is what the step adds to the resident memory of this
process: its peak (VmHWM, Linux) less what it had before.
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from trainables.batches.pack import Example, collate
from trainables.batches.special_tokens import PairTokens, Special
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import Base, base_of
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.classifier import classifier
from trainables.heads.masked_lm import masked_lm
from trainables.stages.finetune import task_loss
from trainables.stages.pretrain import masked_cross_entropy
from trainables.training.memory import footprint

SHAPES = {"minilm": (384, 1536), "bert": (768, 3072)}
"""{name: (hidden size, intermediate size)}; both have 12 heads."""
CPU = torch.device("cpu")
LSTM = {"width": 256, "attention_width": 128, "hops": 4, "penalty": 0.0}
PIECES = 30522
STEPS: dict[str, tuple[str, int, int]] = {
    "short texts": ("pooled", 24, 64),
    "texts": ("pooled", 24, 128),
    "long texts": ("pooled", 4, 512),
    "masked language model": ("mlm", 24, 128),
    "biLSTM": ("bilstm", 24, 128),
    "recomputed": ("recomputed", 12, 512),
}
"""{name: (what is trained, number of texts, their length)}."""


def main() -> None:
    """Measure the steps and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="minilm", help="widths of the encoder")
    parser.add_argument("--layers", type=int, default=6, help="its layers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of matrix products")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="kinds of step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = base_of_shape(*SHAPES[options.shape], options.layers)
    for name in options.steps:
        estimated, measured = bytes_of(base, *STEPS[name], half=options.dtype == "bfloat16")
        mib = [size / 2**20 for size in (estimated, measured)]
        print(f"{name:<24} estimated {mib[0]:6.0f} MiB  measured {mib[1]:6.0f} MiB  ratio {estimated / measured:.2f}", flush=True)


def base_of_shape(width: int, inner: int, layers: int) -> Base:
    """A BERT of this shape with random weights."""
    ends: tuple[tuple[int, ...], ...] = ((3,), (2,), (0,), (0,))
    pair = PairTokens(((3,), (2,), (2,)), ((0,), (0,), (1,)), (0, 1))
    ordinary = np.arange(5, PIECES, dtype=np.int32)
    special = Special(*ends, text_type=0, pad=0, mask=4, reserved=(0, 1, 2, 3, 4), ordinary=ordinary, pair=pair)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return base_of(BertModel(BertConfig(vocab_size=PIECES, num_attention_heads=12, **sizes)), special)


def bytes_of(base: Base, what: str, count: int, length: int, half: bool) -> tuple[int, int]:
    """(estimated, measured) bytes of a step on this many texts of this length."""
    masked = what == "mlm"
    pooling = "bilstm" if what == "bilstm" else "pooled"
    model: Any = masked_lm(base, 0.1, 0) if masked else classifier(base, 2, pooling, 0.1, 0, lstm=LSTM)
    if what == "recomputed":
        recompute_blocks(model.encoder)
    loss = masked_cross_entropy if masked else task_loss

    def step(texts: list[Example]) -> None:
        batch = collate(texts, base)
        with dropout_bits(0, 0, batch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                value = loss(model.train(), batch)
            value.backward()

    step(texts_of(1, 8, masked))  # allocates the gradients
    ctypes.CDLL(None).malloc_trim(0)
    texts, before = texts_of(count, length, masked), resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step(texts)
    return sum(map(footprint(model, base.packable, CPU, what == "recomputed").of, texts)), resident("VmHWM") - before


def texts_of(count: int, length: int, masked: bool) -> list[Example]:
    """Texts of random pieces, of which 15 % are predicted."""
    rng, places = np.random.default_rng(0), np.arange(max(1, length * 15 // 100))
    ids = [rng.integers(5, PIECES, length).astype(np.int32) for _ in range(count)]
    return [Example(text, label=0, masked=(places, text[places]) if masked else None) for text in ids]


def resident(field: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
