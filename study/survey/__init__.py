"""What there is: this machine, data sets, families of encoders, vocabulary that texts share.

The commands `study doctor`, `tasks`, `encoders` and `overlap`, and the documents that are made from code.
"""
