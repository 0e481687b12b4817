"""Before any work: a study checked against its data, its encoder and the machine, its stages planned, their cost estimated.

Trains nothing and starts no Ray. Start with `check.py`, then `plan.py`.
"""
