"""Torch's own kernels for attention within the texts of a packed row on an accelerator, each tested before it is used.

Independent of encoders and of other wings. Start with `choice.py`, which tests the kernels of `calls.py` by `self_test.py`.
"""
