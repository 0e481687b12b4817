"""Predictions and their scores, and the bag of words that every encoder has to beat.

Start with `metrics.py`, then `evaluate.py`.
"""
