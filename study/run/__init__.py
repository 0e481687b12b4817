"""Run a study in its run folder: one driver at a time, baseline, shared stages, search, finals, test.

Start with `launch.py`, then `parts.py`.
"""
