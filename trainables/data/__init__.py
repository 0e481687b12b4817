"""Tasks and corpora: texts and labels of each split, cleaned and identified by digests of their content.

Independent of tokenizers and models. Start with `splits.py`, then `corpus.py`.
"""
