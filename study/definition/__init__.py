"""Read and validate the study file: its models, the search space, the papers' recipes; faults are reported before any work.

Imports no torch, ray or optuna. Start with `models.py`, then `study_file.py`.
"""
