"""Read csv, tsv, jsonl, parquet and plain text files on any file system as tables; no row is lost or changed silently.

Handles bytes and columns, independent of labels. Start with `table_files.py`.
"""
