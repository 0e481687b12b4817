"""The training loop, with optimizer, schedules, precision and the processes that train together.

Knows no task and no store beyond the state that it saves. Start with `loop.py`.
"""
