"""What stands on an encoder: classifiers, masked language models, next-sentence prediction.

Knows encoders and batches, and nothing of optimizers. Start with `classifier.py`.
"""
