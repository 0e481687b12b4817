"""Estimates of the cost of a study without running it: tokens per second, seconds, bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from study.cluster.ray_session import machine_for
from study.definition.models import Study

if TYPE_CHECKING:
    from trainables.settings.encoder import Encoder
    from trainables.stages.node import Node
    from trainables.store.store import Store

GEMM_SHARE = 0.5
"""Share of the machine's matrix multiplication rate that training reaches, for estimates without earlier runs."""
BFLOAT16_GAIN = 2.5
"""Speedup of training in bfloat16 on a CPU for which `precision: auto` is bfloat16."""
GPU_FLOPS = 5e13
"""Assumed floating-point operations per second of a GPU, for estimates without earlier runs."""


def rate(study: Study, store: Store, known: Iterable[Node]) -> tuple[float, str]:
    """(tokens per second of the whole machine, the source): from earlier stages of this study, else from matrix products.

    Stages that train on cached features are ignored, since they do not run the encoder.
    """
    machine = machine_for(study.resources)
    parallel = machine.trials(study.resources)
    measured = []
    for stage_id in dict.fromkeys(node.stage_id for node in known if not getattr(node.stage, "fixed_encoder", False)):
        artifact = store.get(stage_id, digests=False)
        rows = artifact.manifest.get("rows", []) if artifact is not None else []
        measured += [row["tokens_per_s"] for row in rows if row.get("tokens_per_s")]
    if measured:
        typical = sorted(measured)[len(measured) // 2]
        return typical * parallel, f"the median of {len(measured)} evaluations in the store, times {parallel} at a time"
    per_token = (8 if study.resources.gradient_checkpointing else 6) * matrix_weights(study.encoder)
    if gpus := machine.gpus_for(study.resources):
        at_once = parallel * study.resources.workers * gpus
        return GPU_FLOPS * at_once / per_token, "a formula (no earlier run): a GPU taken to do 50 TFLOP/s"
    share = min(1.0, parallel * study.resources.workers * study.resources.cpus / machine.cpus)
    flops, gain = gemm_flops() * share, BFLOAT16_GAIN if study.precision == "bfloat16" else 1.0
    text = f"a formula (no earlier run): {GEMM_SHARE:.0%} of {flops / 1e9:.0f} GFLOP/s that matrix products reach here now"
    text += f", times {gain} for bfloat16" if gain > 1 else ""
    return GEMM_SHARE * gain * flops / per_token, text


def gemm_flops(size: int = 768, tries: int = 10) -> float:
    """Floating-point operations per second of float32 matrix products on all CPUs of this process, measured in milliseconds."""
    import numpy as np

    a = np.ones((size, size), dtype=np.float32)
    seconds = []
    for _ in range(tries + 1):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return float(2 * size**3 / min(seconds[1:]))  # the first sets the threads up


def encoder_settings(encoder: Encoder) -> dict[str, Any]:
    """The transformers configuration of an encoder."""
    if encoder.config is not None:
        return encoder.config
    from trainables.encoder.checkpoint import locate

    settings: dict[str, Any] = json.loads((locate(encoder) / "config.json").read_text(encoding="utf-8"))
    return settings


def matrix_weights(encoder: Encoder) -> int:
    """Weights of the layers' matrices: four of attention and two of the feed-forward part in each."""
    settings = encoder_settings(encoder)
    width = width_of(settings)
    inner = settings.get("intermediate_size") or settings.get("hidden_dim") or settings.get("d_inner") or 4 * width
    return layers_of(encoder) * int(4 * width**2 + 2 * width * inner)


def layers_of(encoder: Encoder) -> int:
    """Number of an encoder's blocks."""
    settings = encoder_settings(encoder)
    return int(settings.get("num_hidden_layers") or settings.get("n_layers") or settings.get("n_layer") or 12)


def weights_bytes(encoder: Encoder) -> int:
    """Size of an encoder's float32 weights: its layers and its embeddings."""
    settings = encoder_settings(encoder)
    pieces = settings.get("vocab_size") or encoder.vocabulary
    return 4 * (matrix_weights(encoder) + width_of(settings) * int(pieces + settings.get("max_position_embeddings", 512)))


def width_of(settings: dict[str, Any]) -> int:
    """Width of the vectors between the blocks of an encoder."""
    return int(settings.get("hidden_size") or settings.get("dim") or settings.get("d_model") or 768)


def features_bytes(study: Study, nodes: Iterable[Node], others: int) -> int:
    """Bytes of the cached outputs of a frozen encoder for these stages: float32, for the training texts and `others` more."""
    width, sizes = width_of(encoder_settings(study.encoder)), {}
    for node in nodes:
        stage = node.stage
        if stage.kind == "finetune" and stage.fixed_encoder and stage.pooling == "bilstm":
            texts = node.steps // stage.epochs * stage.batch_size
            vectors = len(stage.layers) if stage.combine == "concat" else 1
            key = (node.parent_id, texts, stage.layers, stage.combine, stage.max_length, stage.truncation, stage.head_tokens)
            sizes[key] = round(4 * width * vectors * node.tokens_estimate * (1 + others / texts))
    return sum(sizes.values())


def disk(study: Study, milestones: int, finals: int, trials: int, features: int = 0) -> tuple[int, str]:
    """(bytes that the study leaves in the store, how they were estimated)."""
    weights = weights_bytes(study.encoder)
    settings = finals // max(1, study.final.seeds - 1) if study.final.seeds > 1 else study.final.top_k
    kept = {"none": 0, "finals": finals + settings, "all": finals + trials}[study.final.keep_weights]
    text = f"{milestones} milestones and {kept} fine-tuned encoders of {size_text(weights)} each"
    text += f", {size_text(features)} of features" if features else ""
    running = machine_for(study.resources).trials(study.resources)
    return weights * (milestones + kept + 3 * running) + features, f"{text}, and the states of {running} running"


def encoder_name(encoder: Encoder) -> str:
    """Short name of an encoder."""
    if encoder.config is not None:
        return f"{encoder.config['model_type']} from scratch"
    return encoder.hub or "/".join(filter(None, (encoder.package, encoder.folder)))


def size_text(value: float) -> str:
    """`91 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
