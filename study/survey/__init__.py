"""Describe what is available: this machine, data sets, families of encoders, and the vocabulary shared by texts.

The commands `study doctor`, `tasks`, `encoders` and `overlap`, and the documents generated from code.
"""
