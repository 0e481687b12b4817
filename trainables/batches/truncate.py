"""Truncate a text, or a pair of texts, to a budget of pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainables.batches.special_tokens import Ids

if TYPE_CHECKING:
    from trainables.batches.special_tokens import Ids


def truncate(pieces: Ids, budget: int, how: str, head_tokens: int = 0) -> Ids:
    """Keep at most `budget` pieces of a text: its head, its tail, or `head_tokens` from the head and the rest from the tail.

    Sun et al. 2019, section 5.3.1: with BERT's 512 the budget is 510, and head+tail keeps the first 128 and the last 382. A text
    within the budget stays whole. Raises ValueError for an unknown `how` and for head_tokens outside 0..budget.
    """
    if budget < 1 or how not in ("head", "tail", "head+tail") or (how == "head+tail" and not 0 <= head_tokens <= budget):
        raise ValueError(f"cannot keep {budget} pieces as {how!r} with head_tokens {head_tokens}")
    if len(pieces) <= budget:
        return pieces
    head = {"head": budget, "tail": 0}.get(how, head_tokens)
    return np.concatenate((pieces[:head], pieces[len(pieces) - (budget - head) :]))


def truncate_pair(a: Ids, b: Ids, budget: int, how: str, head_tokens: int = 0) -> tuple[Ids, Ids]:
    """Keep at most `budget` pieces of two texts together: the longer loses pieces first; `truncate` cuts both to their shares.

    With head+tail a cut text keeps at least one piece from its end. Raises ValueError for a budget below 2.
    """
    if budget < 2:
        raise ValueError(f"cannot keep a piece of both texts in {budget}")
    shares = longest_first(len(a), len(b), budget)
    first, second = (truncate(text, n, how, min(head_tokens, n - 1)) if n else text for text, n in zip((a, b), shares, strict=True))
    return first, second


def longest_first(a: int, b: int, budget: int) -> tuple[int, int]:
    """Numbers of pieces kept of `a` and `b` so that both fit into `budget`: the longer text loses one piece at a time.

    Of equally long texts the second loses the piece, as in BERT's code and in transformers' `truncate_sequences`. (The `tokenizers`
    library differs for an odd piece: it stays with the text that was longer, or with the second.)
    """
    if a + b <= budget:
        return a, b
    kept = min(a, max(budget - b, -(-budget // 2)))
    return kept, budget - kept
