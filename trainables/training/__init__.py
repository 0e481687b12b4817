"""The training loop, with optimizer, schedules, precision and distributed training.

Independent of tasks and kinds of stage. Start with `loop.py`; `derived.py` publishes artifacts that need no training.
"""
