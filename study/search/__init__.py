"""The search: Optuna's ask and tell over the space of a study, and early stopping.

Does not import Ray. Start with `search.py`.
"""
