"""Numbers and names as text, for a terminal, LaTeX, CSV and JSON; files that are written whole.

The standard library only. Start with `numbers.py`.
"""
