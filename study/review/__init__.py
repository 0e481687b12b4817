"""Inspect a run: its progress, the words that it marked, one of its numbers recomputed.

Reads records and the store. Start with `status.py`.
"""
