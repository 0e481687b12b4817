"""Send a run to experiment trackers: MLflow, TensorBoard, Weights & Biases, Trackio. Built from the records, so it can be repeated.

Needs the package of a tracker only when a run is sent to it. Start with `tracked.py`, then `send.py`.
"""
