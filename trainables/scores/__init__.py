"""Predictions and their scores, and the bag-of-words baseline.

Start with `metrics.py`, then `evaluate.py`.
"""
