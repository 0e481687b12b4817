"""Figures as SVG: the same bytes for the same records, colours that follow the page.

Start with `study_figures.py`.
"""
