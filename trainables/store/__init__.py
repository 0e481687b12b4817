"""The store: results of stages by name, on any file system, shared by all processes that know its address.

Artifacts appear atomically and are verified when they are read. Knows files, digests and leases, and nothing of training. Start
with `store.py`.
"""
