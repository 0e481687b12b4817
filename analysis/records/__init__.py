"""The records of a run: the one truth about a study, an append-only file of JSON lines.

The standard library, numpy and pyarrow. Start with `record_fields.py`, then `run_folder.py`.
"""
