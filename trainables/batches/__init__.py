"""From texts to batches: tokenisation, truncation, masking, sentence pairs, packing.

Uses tokenizers and tensors, but no models. Start with `tokenise.py`, then `pack.py`.
"""
