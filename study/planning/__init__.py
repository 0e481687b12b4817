"""Checks of a study against its data, its encoder and the machine, the plan of its stages, and estimates of their cost.

Trains nothing and starts no Ray. Start with `check.py`, then `plan.py`.
"""
