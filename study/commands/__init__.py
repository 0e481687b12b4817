"""The commands of `study`, with their options and exit codes; related commands share a file.

Heavy packages are imported only inside the commands that need them.
"""
