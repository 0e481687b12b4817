"""Pretrained encoders: check and load their files, replace attention and dropout, add adapters.

Independent of tasks. Start with `load.py`; `attention.py` and `dropout.py` hold the two kernels.
"""
