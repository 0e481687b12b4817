"""A run looked at: how far it is, which words it marked, one number computed again.

Reads records and the store. Start with `status.py`.
"""
