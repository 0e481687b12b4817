"""The study file: its models, the search space, the papers' recipes, and every fault before any work.

Imports no torch, ray or optuna. Start with `models.py`, then `study_file.py`.
"""
