"""Truncation: which pieces of a text, or of a pair of texts, are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainables.batches.special_tokens import Ids

if TYPE_CHECKING:
    from trainables.batches.special_tokens import Ids


def truncate(pieces: Ids, budget: int, how: str, head_tokens: int = 0) -> Ids:
    """At most `budget` pieces of a text: its head, its tail, or `head_tokens` from the head and the rest from the tail.

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
    """At most `budget` pieces of two texts together, the longer cut first, each as `truncate` cuts it to its share.

    Under head+tail a text that is cut keeps at least one piece from its end. Raises ValueError for a budget below 2.
    """
    if budget < 2:
        raise ValueError(f"cannot keep a piece of both texts in {budget}")
    shares = longest_first(len(a), len(b), budget)
    first, second = (truncate(text, n, how, min(head_tokens, n - 1)) if n else text for text, n in zip((a, b), shares, strict=True))
    return first, second


def longest_first(a: int, b: int, budget: int) -> tuple[int, int]:
    """How many of `a` and `b` pieces are kept so that both fit into `budget`: one at a time goes from the longer text.

    Where both are equally long the second loses the piece, as in BERT's own code and in transformers' `truncate_sequences`. (The
    `tokenizers` library divides the same, but an odd piece stays with the text that was the longer one, or with the second.)
    """
    if a + b <= budget:
        return a, b
    kept = min(a, max(budget - b, -(-budget // 2)))
    return kept, budget - kept
