"""Statistics: intervals and tests over seeds and texts, calibration, errors by length and class, importance of dimensions.

Start with `inference.py`.
"""
