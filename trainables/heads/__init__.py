"""Heads on an encoder: classifiers, masked language models, next-sentence prediction.

Uses encoders and batches, but no optimizers. Start with `classifier.py`.
"""
