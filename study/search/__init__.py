"""The search: Optuna's ask and tell over the space of a study, and early stopping.

Knows no Ray. Start with `search.py`.
"""
