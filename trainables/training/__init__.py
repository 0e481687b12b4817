"""The training loop, with optimizer, schedules, precision and distributed training.

Independent of tasks, and of the store beyond the state that it saves. Start with `loop.py`.
"""
