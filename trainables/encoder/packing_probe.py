"""Test on small random inputs whether an encoder can be packed.

Some families ignore a custom attention silently and would attend across texts without an error, others mix tokens elsewhere. So the
attention must be called once per layer, the packed result must equal the padded one, and a change of one text must not affect the
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.encoder import attention

LENGTHS = (9, 5, 14)
"""Lengths of the probe's texts; with a sliding window, a further text exceeds it."""
RELATIVE = 1e-4
"""Largest deviation from the padded result, relative to its largest element."""


@dataclass(frozen=True)
class Packability:
    """Result of the probe: `reason` says why an encoder cannot be packed; None if it can."""

    reason: str | None
    position_start: int = 0


def packable(model: Any, type_ids: bool) -> Packability:
    """Test whether packed texts give the same results as single texts. The model must be in eval mode; it is not changed."""
    implementation = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        texts, padding = _texts(model), getattr(model.config, "pad_token_id", None) or 0
        with torch.inference_mode():
            single = [
                model(input_ids=text[None], attention_mask=torch.ones_like(text[None])).last_hidden_state[0] for text in texts
            ]
            model.set_attn_implementation(attention.NAME)
            reasons = [(start, _fault(model, texts, single, start, type_ids)) for start in sorted({0, padding + 1})]
    except Exception as error:  # padding still works, whichever error a family raises
        return Packability(f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        model.set_attn_implementation(implementation)
    works = [start for start, reason in reasons if reason is None]
    return Packability(None, works[0]) if works else Packability(reasons[0][1])


def _texts(model: Any) -> list[Tensor]:
    config = model.config
    rng = np.random.default_rng(0)
    window = getattr(config, "sliding_window", None) or 0
    lengths = [*LENGTHS, 2 * window + 9] if window else LENGTHS
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")}
    allowed = np.array([i for i in range(min(config.vocab_size, 1000)) if i not in special])
    return [torch.from_numpy(rng.choice(allowed, length)) for length in lengths]


def _run(model: Any, texts: list[Tensor], start: int, type_ids: bool) -> tuple[tuple[Tensor, ...], int]:
    """(hidden states of packed texts, number of attention calls)."""
    ids = torch.cat(texts)[None]
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None] + start
    extra = {"token_type_ids": torch.zeros_like(ids)} if type_ids else {}
    lengths = [len(text) for text in texts]
    with attention.packed(lengths) as layout:
        hidden = model(input_ids=ids, position_ids=positions, **extra).last_hidden_state[0]
    return hidden.split(lengths), layout.calls


def _fault(model: Any, texts: list[Tensor], single: list[Tensor], start: int, type_ids: bool) -> str | None:
    """Why packing with positions from `start` is wrong; None if it is right."""
    states, calls = _run(model, texts, start, type_ids)
    if calls != model.config.num_hidden_layers:
        return f"its attention cannot be replaced ({calls} calls for {model.config.num_hidden_layers} layers)"
    scale = max(float(text.abs().max()) for text in single)
    worst = max(float((a - b).abs().max()) for a, b in zip(states, single, strict=True))
    if not worst <= RELATIVE * scale:
        return f"packed texts come out differently (by {worst / scale:.1e} of the largest value)"
    others, _ = _run(model, [texts[0].flip(0), *texts[1:]], start, type_ids)
    if any(float((a - b).abs().max()) > 1e-6 * scale for a, b in zip(states[1:], others[1:], strict=True)):
        return "a text's result depends on its neighbours"
    return None
