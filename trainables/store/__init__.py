"""The store: results of stages by name, on any file system, shared by all processes that use its address.

Artifacts appear atomically and are verified when they are read. This wing handles files, digests and leases and never imports
torch. Start with `store.py`.
"""
