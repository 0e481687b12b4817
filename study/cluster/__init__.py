"""Ray: a session on this machine or a cluster, trials in warm actors or under Ray Train, and failures of the machine.

`work.py` is where Ray meets the training loop. Start with `trial.py`.
"""
