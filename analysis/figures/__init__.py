"""Draw figures as SVG: the same bytes for the same records, in the colours of the page.

Start with `study_figures.py`.
"""
