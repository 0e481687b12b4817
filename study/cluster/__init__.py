"""Run trials on Ray: sessions on this machine or a cluster, warm actors, Ray Train, and failures of the machine.

`work.py` connects Ray with the training loop. Start with `trial.py`.
"""
