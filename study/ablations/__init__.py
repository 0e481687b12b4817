"""Ablations: settings x tasks x seeds with the published cells that they answer to, as studies that share stages.

Start with `ablation_file.py`, then `grid.py`.
"""
