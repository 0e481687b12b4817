"""Tables for terminals, Markdown, LaTeX, CSV and JSON.

Start with `result_table.py` for studies and `published_layout.py` for ablations.
"""
