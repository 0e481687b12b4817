"""A run folder from its first record to its last: one driver at a time, baseline, shared stages, search, finals, test.

Start with `launch.py`, then `parts.py`.
"""
