"""Cached outputs of a frozen encoder: computed once into the store, for all heads, learning rates and seeds.

If the encoder is not trained and without dropout, its vectors are the same in every epoch and every trial. They are an artifact:
rows in a safetensors file that is written in parts and read through a memory map, so that it need not fit into memory. The parts,
and therefore the rows, do not depend on the micro-batch or the number of workers.
"""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.batches.pack import Example
from trainables.data.splits import Split, digest_of
from trainables.encoder import attention
from trainables.encoder.load import Base
from trainables.heads.classifier import Classifier
from trainables.scores.evaluate import computed, parts_of
from trainables.settings.stages import Finetune
from trainables.store.artifact_files import FEATURES, stage_id
from trainables.store.store import Store
from trainables.training.derived import once
from trainables.training.runtime import Runtime

log = logging.getLogger(__name__)
NAME = "features"
"""Name of the tensor in the file."""
LARGEST_HEADER = 4096
"""Largest header of such a file, in bytes."""


@dataclass(frozen=True)
class Features:
    """The cached encoder outputs of a stage with a frozen encoder."""

    stage: Finetune
    source: str
    """Digest of the encoder, or id of the artifact, whose weights the frozen encoder has."""
    precision: str
    store: Store

    def of(self, split: Split, examples: Sequence[Example], model: Classifier, base: Base, runtime: Runtime) -> list[Example]:
        """The examples of a split with their features, from the store, or computed by `model` if they are missing.

        All ranks call this together: they share the work, and rank 0 writes.
        """
        determines = self.determines(split, base)
        tokens = sum(len(example.ids) for example in examples)
        manifest: dict[str, Any] = {"kind": "features", "settings": determines, "texts": len(examples), "tokens": tokens}

        def make(folder: Path) -> dict[str, Path]:
            log.info("features: %d texts go through the encoder once", len(examples))
            count = sum(map(self.rows_of, examples))
            file = write(folder / FEATURES, count, _computed(examples, model, base, runtime))
            if kernels := attention.ran_in(model)[0]:
                manifest["attention"] = kernels  # known only now, and still in time
            return {FEATURES: file}

        name, ends = stage_id("features", determines), np.cumsum([self.rows_of(example) for example in examples])
        path = once(self.store, runtime.world, name, manifest, FEATURES, make)
        made = self.store.get(name, digests=False)
        if made is not None and isinstance(made.manifest.get("attention"), list):
            attention.ran_before(model, made.manifest["attention"])
        try:
            rows = read(path, int(ends[-1]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            artifact = self.store.get(name)
            raise artifact.damaged(f"{FEATURES}: {error}") if artifact else error from None
        return [replace(example, features=part) for example, part in zip(examples, np.split(rows, ends[:-1]), strict=True)]

    def rows_of(self, example: Example) -> int:
        """Number of rows of a text."""
        return len(example.ids) if self.stage.pooling == "bilstm" else len(example.lengths)

    def determines(self, split: Split, base: Base) -> dict[str, Any]:
        """Everything that determines the features of a split."""
        stage = self.stage
        cut: dict[str, Any] = {"truncation": stage.truncation, "max_length": stage.max_length}
        if stage.truncation == "head+tail":
            cut["head_tokens"] = stage.head_tokens
        if stage.fractions is not None:
            cut |= {"truncation": "hier", "max_fractions": stage.max_fractions}
        return {
            **cut,
            "source": self.source,
            "texts": digest_of(split.sides),
            **({"pairs": True} if split.pairs is not None else {}),
            "precision": self.precision,
            "layers": [layer % base.layers for layer in stage.layers],
            "combine": stage.combine if len(stage.layers) > 1 else None,
            "rows": {"bilstm": "pieces", "mean": "means"}.get(stage.pooling, "firsts"),
        }


def _computed(examples: Sequence[Example], model: Classifier, base: Base, runtime: Runtime) -> Iterator[np.ndarray]:
    """Rows of the texts in order, in parts, the same on every rank. In every round each rank computes one part."""
    world, parts = runtime.world, parts_of(range(len(examples)), examples)
    model.eval()
    for first in range(0, len(parts), world.size):
        mine = None
        if first + world.rank < len(parts):
            passes = computed(model.features, parts[first + world.rank], examples, base, runtime)
            mine = np.concatenate([rows for _, rows in passes])
        yield from (part for part in world.gather(mine) if part is not None)


def write(path: Path, count: int, parts: Iterable[np.ndarray]) -> Path:
    """Write `count` rows, float32 [count, width], which come in parts, as one tensor of a safetensors file."""
    with open(path, "wb") as file:
        for part in parts:
            if not file.tell():
                size = count * part.shape[1] * 4
                tensors = {NAME: {"dtype": "F32", "shape": [count, part.shape[1]], "data_offsets": [0, size]}}
                header = json.dumps(tensors).encode()
                header += b" " * (-len(header) % 8)
                file.write(len(header).to_bytes(8, "little") + header)
            file.write(part.astype("<f4").tobytes())
    return path


def read(path: Path, count: int) -> np.ndarray:
    """The rows of such a file, float32 [count, width], as a memory map: unused rows are not read.

    Raises ValueError, KeyError or TypeError for a file with other rows, of which it reads only the header.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes")
        shape = json.loads(file.read(size))[NAME]["shape"]
    rows, width = map(operator.index, shape)
    if rows != count or path.stat().st_size != 8 + size + 4 * count * width:
        raise ValueError(f"{rows} rows of {width} numbers in {path.stat().st_size} bytes, where {count} rows should be")
    return np.asarray(np.memmap(path, dtype="<f4", mode="r", offset=8 + size, shape=(count, width)))
