"""Format numbers and names as text, for a terminal, LaTeX, CSV and JSON; write files atomically.

Needs the standard library only. Start with `numbers.py`.
"""
