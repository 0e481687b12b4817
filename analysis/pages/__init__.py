"""The reports of studies, of ablations and of several runs: a page each, with all its files.

Start with `reports.py`.
"""
