"""The commands of `study`, one file for those of a kind, with their options and exit codes.

Nothing heavy is imported here: it comes with the command that needs it.
"""
