"""Train a WordPiece vocabulary on texts, for encoders without a tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.batches.special_tokens import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def train_wordpiece(texts: Sequence[str], size: int) -> Tokenizer:
    """Train a lower-casing BERT tokenizer with at most `size` pieces; deterministic."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=trained(texts, size).get_vocab())


def trained(texts: Sequence[str], size: int) -> Backend:
    """The library's tokenizer with a vocabulary of at most `size` pieces.

    The library numbers its alphabet in the order of a hash map, which differs between runs and decides ties; so the alphabet is
    counted here and passed to it in a fixed order.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(ranked[: (size - len(special)) // 2])
    inner = [
        f"##{c}" for c in alphabet if len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{c}a"))) == 1
    ]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*special, *alphabet, *inner],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend
