"""Files as tables: csv, tsv, jsonl, parquet and plain text on any file system, where no row is lost or changed in silence.

Knows bytes and columns, and nothing of labels. Start with `table_files.py`.
"""
