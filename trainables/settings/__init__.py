"""Settings of a trial as pydantic models, and the exception for wrong input.

Imports no torch and reads no data. Start with `stages.py`; `errors.py` holds the exception.
"""
