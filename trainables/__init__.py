"""One trial in plain PyTorch: settings, data, packed batches, the training loop, the store. Knows no Ray."""
