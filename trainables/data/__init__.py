"""Tasks and corpora: texts and labels of each split, cleaned and named by their content.

Knows no tokenizer and no model. Start with `splits.py`, then `corpus.py`.
"""
