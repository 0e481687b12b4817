"""Predict how many texts pass at once, and whether one fits into memory, by the estimate that bounds the loop's micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from study.cluster import gpus
from study.cluster.ray_session import machine_for
from study.definition.models import Study
from study.definition.space import with_params
from study.definition.space_faults import combinations
from study.planning.estimate import size_text
from study.planning.gpu_table import Gpu
from study.search.search import given_points
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.stages import SETTINGS, Finetune, Stage
from trainables.settings.validate import validate
from trainables.tables.free_memory import available
from trainables.training import footprint

PADDED = ("mpnet", "deberta-v2", "xlnet", "longformer", "big_bird")
"""Families whose attention does not run on packed texts, so that it keeps its probabilities."""
SIZES = (
    *("max_length", "batch_size", "mask_share", "steps", "epochs", "layers", "combine", "pooling", "lstm_width"),
    *("freeze", "reinit_layers", "lora_rank"),
)
"""Fields of stages on which memory depends."""


@dataclass(frozen=True)
class Place:
    """The memory of a training process."""

    name: str
    """What it is part of, such as `one H100`."""
    bytes: float
    """What the process may take."""
    on_gpu: bool
    side_by_side: int = 1
    """Number of such processes on the GPU or, on CPUs, in the machine."""


@dataclass(frozen=True)
class Need:
    """Estimated memory of a training process in a stage with its longest texts."""

    stage: str
    length: int
    """Pieces of a text, or of a fraction of one."""
    batch: int
    """Texts of a step in one process."""
    fixed_bytes: int
    """Weights, their gradients and Adam's moments."""
    text_bytes: int
    """What a pass keeps for a text."""


@dataclass(frozen=True)
class Fit:
    """How a stage fits into memory."""

    need: Need
    texts: int
    """Texts of a forward pass; 0: not even one fits."""

    def text(self, place: Place) -> str:
        """Return a sentence on a stage, for the terminal."""
        need, sizes = self.need, f"{size_text(self.need.fixed_bytes)} of weights and optimizer"
        if not self.texts:
            there = f"{size_text(max(0, place.bytes))} of {place.name}"
            text = f"{need.stage}: not even one text of {need.length} pieces fits: {size_text(need.text_bytes)}"
            return f"{text} and {sizes}, in {there}"
        count = f"all {need.batch}" if self.texts == need.batch else f"{self.texts} of {need.batch}"
        size = size_text(self.texts * need.text_bytes)
        return f"{need.stage}: {count} texts of {need.length} pieces in a forward pass, {size}, and {sizes}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self.need) | {"texts_per_pass": self.texts}


def advice(place: Place) -> str:
    """Return what to do if not even one text fits."""
    fewer = ""
    if place.side_by_side > 1:
        fewer = ", a larger share of a GPU (resources.gpus)" if place.on_gpu else ", fewer trials at a time (resources.concurrent)"
    return f"set resources.gradient_checkpointing: true, a shorter max_length{fewer}, or take a smaller encoder"


def notices(study: Study) -> Iterator[str]:
    """Yield a notice for every stage of which not even one text fits into a trial's share of this machine's GPU."""
    if (place := place_of(study)) is not None and place.on_gpu:
        yield from (f"{each.text(place)}; {advice(place)}" for each in fits(study, place) if not each.texts)


def place_of(study: Study, gpu: Gpu | None = None) -> Place | None:
    """Return the memory of a trial's process on a GPU of the table, else on this machine; None if its size is unknown."""
    resources, machine = study.resources, machine_for(study.resources)
    wanted = machine.gpus_for(resources)
    share = min(1.0, wanted) or 1.0
    if gpu is not None or wanted:
        total = gpu.memory_bytes if gpu is not None else gpus.memory_bytes()
        name = f"one {gpu.name}" if gpu is not None else "this machine's GPU"
        return Place(name, footprint.granted(total, share), True, int(1 / share + 1e-9)) if total else None
    there, processes = available(), machine.trials(resources) * resources.workers
    return Place("this machine's memory", there[0] / processes, False, processes) if there is not None else None


def fits(study: Study, place: Place) -> list[Fit]:
    """Return how every training stage fits with the settings of the study that need most. Raises ConfigError for an encoder."""
    return [fit(need, place, study.resources.micro_batch) for need in _needs(study, place.on_gpu)]


def fit(need: Need, place: Place, micro_batch: int = 0) -> Fit:
    """Return how a stage fits; with `micro_batch` texts of a pass, or 0 for as many as the loop takes."""
    free = place.bytes - need.fixed_bytes
    if need.text_bytes > free:
        return Fit(need, 0)
    # The weights are loaded when the loop plans; gradients and moments are not there yet, and it takes them off itself.
    room = footprint.room_on_gpu(free, 0) if place.on_gpu else footprint.room_on_cpu(free, 0)
    texts = min(micro_batch, free // need.text_bytes) if micro_batch else room // need.text_bytes
    return Fit(need, int(min(need.batch, max(1, texts))))


def need_of(stage: Stage, encoder: Encoder, on_gpu: bool, recomputes: bool = False, workers: int = 1) -> Need:
    """Return the memory of a training process in a stage. Raises ConfigError if the encoder's configuration cannot be read.

    The encoder counts as trained in whole unless adapters are trained instead, or it is frozen as a whole: then only its cached
    outputs pass.
    """
    config, weights = _outline(encoder)
    tuned = stage if isinstance(stage, Finetune) else None
    frozen = tuned is not None and tuned.fixed_encoder
    trained = 0 if frozen or (tuned is not None and tuned.lora_rank) else weights
    blocks = config.num_hidden_layers
    kept = footprint.footprint_of(
        config,
        squares=footprint.kept_squares(config.model_type not in PADDED, on_gpu),
        layers=max(layer % blocks for layer in tuned.layers) + 1 if tuned is not None else blocks,
        recomputes=recomputes,
        predicts=stage.kind == "pretrain",
        units=tuned.lstm_width if tuned is not None and tuned.pooling == "bilstm" else 0,
    )
    targets = math.ceil(stage.mask_share * stage.max_length) if stage.kind == "pretrain" else 0
    text = kept.bytes_of((stage.max_length,), targets)
    if tuned is not None and frozen:
        text = stage.max_length * kept.reader + _features(tuned, config.hidden_size)
    fixed = footprint.FLOAT * weights + footprint.OWED * trained
    return Need(stage.name, stage.max_length, -(-stage.batch_size // workers), fixed, text)


def _features(stage: Finetune, width: int) -> int:
    """Bytes of a text's cached vectors."""
    vectors = len(stage.layers) if stage.combine == "concat" else 1
    return footprint.FLOAT * width * vectors * (stage.max_length if stage.pooling == "bilstm" else 1)


@lru_cache(maxsize=8)
def _outline(encoder: Encoder) -> tuple[Any, int]:
    """(transformers configuration, number of weights) of an encoder."""
    from trainables.encoder.load import outline

    model: Any = outline(encoder)
    return model.config, sum(weight.numel() for weight in model.parameters())


def _needs(study: Study, on_gpu: bool) -> Iterator[Need]:
    """The needs of every training stage with the settings that need most."""
    resources = study.resources
    for stage in study.recipe:
        found = [
            need_of(each, study.encoder, on_gpu, resources.gradient_checkpointing, resources.workers)
            for each in dict.fromkeys(_variants(study, stage))
            if each.trains
        ]
        if found:
            yield max(found, key=lambda need: (need.fixed_bytes + need.text_bytes, need.batch))


def _variants(study: Study, stage: Stage) -> Iterable[Stage]:
    """The stage with the settings of the study that differ in memory."""
    paths = [f"{stage.name}.{field}" for field in SIZES if field in type(stage).model_fields]
    given = study.search.how.only_first
    for params in given_points(study) if given else combinations(study.space, study.fixed, paths):
        try:
            yield validate(SETTINGS[stage.kind], with_params(stage.name, stage, params))
        except ConfigError:  # this combination is never tried
            continue
