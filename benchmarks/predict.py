"""Texts per second of an exported model: our prediction against transformers' pipeline, on the same folder and the same texts.

    python -m benchmarks.predict [--encoder small|base] [--texts mixed|long|short ...] [--count N] [--batch 1 8 32 64] [--rounds 2]
        [--threads N] [--device cpu|cuda] [--onnx] [--json FILE]

Both read text and give the probability of every class; tokenising is included. Ours is `load(DIR).predict(texts)`, texts in their
order. The peer is `pipeline("text-classification", DIR)` with each batch size, with the texts in their order and sorted by length,
which is for the caller to do and undo. Contestants take turns within a round; of each the fastest round counts. float32, random
weights, the largest difference of a probability is printed. Needs a machine that nothing else uses.

`--onnx`: also onnxruntime with the `model.onnx` of the folder, texts sorted by length; times of exports, and sizes of files.

`short`: the sentences of three review sets as they are. `long`: reviews joined to lengths like IMDb's (lognormal, mean 230 pieces,
at most 512). `mixed`: half of each, shuffled.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from benchmarks.workload import MEAN, SETS, base_encoder, joined_reviews, reviews, synchronise
from trainables.encoder.load import model_state
from trainables.export.description import Description
from trainables.export.load import LoadedModel, load, of_weights
from trainables.export.write import write
from trainables.scores.evaluate import probabilities
from trainables.settings.stages import Finetune
from trainables.stages.finetune import model_of
from trainables.stages.state_files import saved

CLASSES = ("negative", "positive")
COUNT = {"mixed": 128, "long": 96, "short": 512}
"""Texts by workload, unless --count is given."""


def main() -> None:
    options = arguments().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        exported(options.encoder, Path(folder) / "model", options.onnx)
        ours = load(Path(folder) / "model", options.device)
        theirs = pipeline("text-classification", model=str(Path(folder) / "model"), device=options.device, top_k=None)
        session = onnx_session(Path(folder) / "model") if options.onnx else None
        found = {name: compared(name, ours, theirs, options, session) for name in options.texts}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=["tiny", "small", "base"], default="small")
    parser.add_argument("--texts", choices=["mixed", "long", "short"], nargs="+", default=["mixed"])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--onnx", action="store_true", help="onnxruntime too, on the CPU")
    parser.add_argument("--json", type=Path, help="a file for the results")
    return parser


def exported(encoder: str, folder: Path, onnx: bool) -> None:
    """Export a classifier with random weights in its head, which transformers' own classifier of BERT can express.

    With ONNX it is written twice, to show how long that takes; a first export of another model loads what the exporter imports.
    """
    base, stage = base_encoder(encoder), Finetune(max_length=512, truncation="head", pooling="pooled")
    described = Description(
        labels=CLASSES,
        multi_label=False,
        pairs=False,
        finetune=stage,
        encoder_layers=base.layers,
        precision="float32",
        plain=False,
        files={},
    )
    folder.parent.mkdir(exist_ok=True)
    weights = folder.with_name("weights.safetensors")
    saved(model_state(model_of(stage, base, len(CLASSES), 0)), weights)
    model = of_weights(described, base, weights, "cpu")
    for with_onnx in (False, True) if onnx else (False,):
        begun = time.perf_counter()
        write(model, folder, lambda _: "", force=True, onnx=with_onnx)
        print(f"export {'with' if with_onnx else 'without'} model.onnx: {time.perf_counter() - begun:.1f} s")
    for name in ("model.safetensors", "model.onnx") if onnx else ():
        print(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB")


def texts_of(name: str, count: int, tokenizer: Any) -> list[str]:
    """So many texts, always the same."""
    rng = np.random.default_rng(0)
    if name == "mixed":
        both = texts_of("short", count // 2, tokenizer) + texts_of("long", count - count // 2, tokenizer)
        return [both[i] for i in rng.permutation(count)]
    if name == "short":
        known = [text for each in SETS for text, _ in reviews(each)]
        return [known[i] for i in rng.integers(0, len(known), count)]
    base = base_encoder("small")
    return [str(base.tokenizer.decode(pieces)) for pieces in joined_reviews(base, count, MEAN["long"])]


def compared(name: str, ours: LoadedModel, theirs: Any, options: argparse.Namespace, session: Any) -> dict[str, Any]:
    """Texts per second of every contestant on one workload."""
    texts = texts_of(name, options.count or COUNT[name], ours.base.tokenizer)
    contestants: dict[str, Callable[[], np.ndarray]] = {"ours": lambda: ours.predict(texts).probabilities}
    for batch in options.batch:
        peer = partial(of_pipeline, theirs, batch=batch)
        contestants[f"pipeline, batch {batch}"] = partial(peer, texts)
        if batch > 1:
            contestants[f"pipeline, batch {batch}, sorted"] = partial(in_order, peer, texts)
        if batch > 1 and session is not None:
            runtime = partial(of_onnx, session, theirs.tokenizer, batch=batch)
            contestants[f"onnxruntime, batch {batch}, sorted"] = partial(in_order, runtime, texts)
    for call in (contestants["ours"], lambda: of_pipeline(theirs, texts[:16], 8)):
        call()  # warms up
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    answers = {}
    for _ in range(options.rounds):
        for key, call in contestants.items():
            synchronise(options.device)
            begun = time.perf_counter()
            answers[key] = call()
            seconds[key].append(time.perf_counter() - begun)
    differ = max(float(np.abs(answer - answers["ours"]).max()) for answer in answers.values())
    best = {key: min(each) for key, each in seconds.items()}
    lengths = [len(ids) for ids in ours.base.tokenizer(texts, verbose=False)["input_ids"]]
    print(
        f"\n{name}: {len(texts)} texts of {np.mean(lengths):.0f} pieces (median {np.median(lengths):.0f}), {options.encoder}"
        f" encoder, {torch.get_num_threads()} threads; probabilities differ by at most {differ:.1e}"
    )
    for key, took in sorted(best.items(), key=lambda pair: pair[1]):
        print(f"  {key:<30}{len(texts) / took:>10.1f} texts/s{took / best['ours']:>8.2f} x our time", flush=True)
    return {"texts": len(texts), "differ": differ, "seconds": seconds}


def of_pipeline(theirs: Any, texts: Sequence[str], batch: int) -> np.ndarray:
    """Probabilities [n, classes] of transformers' pipeline."""
    rows = theirs(list(texts), batch_size=batch, truncation=True)
    return np.array([[score["score"] for score in sorted(row, key=lambda each: CLASSES.index(each["label"]))] for row in rows])


def in_order(predict: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """Probabilities [n, classes] that `predict` gives for texts sorted by length, put back in their order."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    found = np.empty((len(texts), len(CLASSES)))
    found[order] = predict([texts[i] for i in order])
    return found


def onnx_session(folder: Path) -> Any:
    """onnxruntime's session of the exported file, with as many threads as PyTorch has."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])


def of_onnx(session: Any, tokenizer: Any, texts: Sequence[str], batch: int) -> np.ndarray:
    """Probabilities [n, classes] by onnxruntime, from padded batches."""
    parts, names = [], [entry.name for entry in session.get_inputs()]
    for begin in range(0, len(texts), batch):
        encoded = tokenizer(list(texts[begin : begin + batch]), padding=True, truncation=True, return_tensors="np")
        (logits,) = session.run(["logits"], {name: encoded[name] for name in names})
        parts.append(probabilities(logits, several=False))
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
