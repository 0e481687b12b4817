"""Predictions for the rows of a file: read in windows, predicted, written in the same form with columns added.

Uses the readers of tables and an exported model; needs no store, no Ray and no network. Start with `predict_file.py`.
"""
