"""Test on small random inputs whether an encoder can be packed.

Some families ignore a custom attention silently and would attend across texts without an error, others mix tokens elsewhere. So the
attention must be called once per layer, the packed result must equal the padded one, and a change of one text must not affect the
others. The same for the last block on single tokens (`last_block.py`); without it all tokens are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.encoder import attention
from trainables.encoder.last_block import narrow_last_block, widen

LENGTHS = (9, 5, 14)
"""Lengths of the probe's texts; with a sliding window, a further text exceeds it."""
RELATIVE = 1e-4
"""Largest deviation from the padded result, relative to its largest element."""


@dataclass(frozen=True)
class Packability:
    """Result of the probe: `reason` says why an encoder cannot be packed; None if it can."""

    reason: str | None
    position_start: int = 0
    narrows: bool = False
    """Whether the last block can compute single tokens."""


def packable(model: Any, type_ids: bool) -> Packability:
    """Test whether packed texts give the same results as single texts, and the last block on single tokens those of all tokens.

    The model must be in eval mode; it is not changed.
    """
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
            works = [start for start, reason in reasons if reason is None]
            narrows = bool(works) and _narrows(model, texts, single, works[0], type_ids)
    except Exception as error:  # padding still works, whichever error a family raises
        return Packability(f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        model.set_attn_implementation(implementation)
    return Packability(None, works[0], narrows) if works else Packability(reasons[0][1])


def _texts(model: Any) -> list[Tensor]:
    config = model.config
    rng = np.random.default_rng(0)
    window = getattr(config, "sliding_window", None) or 0
    lengths = [*LENGTHS, 2 * window + 9] if window else LENGTHS
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")}
    allowed = np.array([i for i in range(min(config.vocab_size, 1000)) if i not in special])
    return [torch.from_numpy(rng.choice(allowed, length)) for length in lengths]


def _run(
    model: Any, texts: list[Tensor], start: int, type_ids: bool, rows: Tensor | None = None
) -> tuple[Tensor, attention.PackedLayout]:
    """(hidden states of packed texts, or only of `rows`, and their layout)."""
    ids = torch.cat(texts)[None]
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None] + start
    extra = {"token_type_ids": torch.zeros_like(ids)} if type_ids else {}
    with attention.packed([len(text) for text in texts], rows=rows) as layout:
        hidden = model(input_ids=ids, position_ids=positions, **extra).last_hidden_state[0]
    return hidden, layout


def _fault(model: Any, texts: list[Tensor], single: list[Tensor], start: int, type_ids: bool) -> str | None:
    """Why packing with positions from `start` is wrong; None if it is right."""
    lengths = [len(text) for text in texts]
    hidden, layout = _run(model, texts, start, type_ids)
    if layout.calls != model.config.num_hidden_layers:
        return f"its attention cannot be replaced ({layout.calls} calls for {model.config.num_hidden_layers} layers)"
    scale = max(float(text.abs().max()) for text in single)
    states = hidden.split(lengths)
    worst = max(float((a - b).abs().max()) for a, b in zip(states, single, strict=True))
    if not worst <= RELATIVE * scale:
        return f"packed texts come out differently (by {worst / scale:.1e} of the largest value)"
    others, _ = _run(model, [texts[0].flip(0), *texts[1:]], start, type_ids)
    if any(float((a - b).abs().max()) > 1e-6 * scale for a, b in zip(states[1:], others.split(lengths)[1:], strict=True)):
        return "a text's result depends on its neighbours"
    return None


def _narrows(model: Any, texts: list[Tensor], single: list[Tensor], start: int, type_ids: bool) -> bool:
    """Whether single tokens come out of the last block as they do among all tokens."""
    block = narrow_last_block(model)
    if block is None:
        return False
    expected = torch.cat(single)
    # One text without any, one with several; the numbers of rows and tokens differ.
    rows = torch.tensor([0, *range(len(texts[0]) + len(texts[1]) + 2, len(expected), 3)])
    try:
        found, layout = _run(model, texts, start, type_ids, rows)
    except Exception:  # the block takes no fewer tokens: all are computed, whichever error a family raises
        return False
    finally:
        widen(block)
    wanted = expected.index_select(0, rows)
    same = layout.narrowed and layout.calls == model.config.num_hidden_layers and found.shape == wanted.shape
    return same and float((found - wanted).abs().max()) <= RELATIVE * float(expected.abs().max())
