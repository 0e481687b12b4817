"""Pretrained encoders: their files, checked and loaded, and what is changed in them: attention, dropout, adapters.

Knows no task. Start with `load.py`; `attention.py` and `dropout.py` hold the two kernels.
"""
