"""From texts to batches: tokenisation, truncation, masking, sentence pairs, packing.

Knows tokenizers and tensors, and no model. Start with `tokenise.py`, then `pack.py`.
"""
