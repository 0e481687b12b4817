"""Ablations: grids of settings x tasks x seeds, compared with published tables and run as studies that share stages.

Start with `ablation_file.py`, then `grid.py`.
"""
