"""Settings: what a trial is made of, as pydantic models, and how faulty input is answered.

Knows no torch and reads no data. Start with `stages.py`; `errors.py` holds the one exception for wrong input.
"""
