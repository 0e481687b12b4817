"""Export a fine-tuned model as a folder, and load such a folder to predict texts.

Uses settings, encoders, heads and the reading of texts by fine-tuning; needs no store, no Ray and no network. Start with
`write.py`, which writes a folder, then `load.py`, which reads it; `description.py` defines `study_model.json`, and `plain.py` looks
for the same head among transformers' own, and `onnx_file.py` writes that as ONNX.
"""
