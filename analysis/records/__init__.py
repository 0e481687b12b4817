"""The records of a run: an append-only file of JSON lines, from which everything about a study is read.

Needs the standard library, numpy and pyarrow. Start with `record_fields.py`, then `run_folder.py`.
"""
