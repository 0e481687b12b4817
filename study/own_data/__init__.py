"""From a data file to a study: find the columns, check the texts, propose settings, write a commented study file.

The commands `study init` and `study run --data`. Builds on `survey`, `planning` and `definition`; start reading at `begin.py`.
"""
