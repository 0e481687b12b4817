"""Seconds for which training stands still at an evaluation because its state is written, on the CPU, with a BERT of random weights.

    python benchmarks/state_pauses.py [--layers 12] [--texts 32] [--rounds 2]

Evaluations alternate in one run: the state is written after the evaluation, or its weights and moments during it. The pause is the
time from the last step to the row, less that of an evaluation during which nothing is written. The first two do not count: memory
is obtained in them.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.settings.encoder import Encoder
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.stages import run_recipe
from trainables.stages.state_files import StateWriter
from trainables.store.store import Store

TEXTS = Path(__file__).parent.parent / "trainables" / "texts" / "sls_imdb"
AFTER, DURING = "after the evaluation", "during the evaluation"


def main() -> None:
    """Run the recipe and print a line for each way to write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="blocks of the encoder, which has the widths of BERT-base")
    parser.add_argument("--texts", type=int, default=32, help="texts of an evaluation")
    parser.add_argument("--rounds", type=int, default=2, help="evaluations of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        evaluation_s, pauses = measured(Path(folder), options.layers, options.texts, 2 * options.rounds + 2)
    print(f"evaluations of {evaluation_s:.2f} s")
    for way, seconds in pauses.items():
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"written {way:<24} training stands still for {statistics.mean(seconds):5.2f} s ({spread})")


def measured(folder: Path, layers: int, texts: int, evaluations: int) -> tuple[float, dict[str, list[float]]]:
    """(seconds of an evaluation alone, {way to write: seconds of each pause})."""
    begun, alone, given = list[float](), list[float](), list[float]()
    begin, train = StateWriter.begin, run_recipe.train

    def alternate(writer: StateWriter, step: int) -> None:
        begun.append(time.perf_counter())
        if len(begun) % 2:
            begin(writer, step)

    def timed(job: Any, *others: Any) -> Iterator[Any]:
        evaluate = job.evaluate

        def noted(step: int, model: Any) -> Any:
            start = time.perf_counter()
            row = evaluate(step, model)
            alone.append(time.perf_counter() - start)
            return row

        job.evaluate = noted
        return train(job, *others)

    StateWriter.begin, run_recipe.train = alternate, timed  # type: ignore[method-assign, assignment]
    # No state is written after the last evaluation.
    for _ in run_recipe.run(recipe(folder, layers, texts, evaluations + 1), Store(folder / "store")):
        given.append(time.perf_counter())
        if len(given) <= evaluations:
            way, seconds = DURING if len(begun) % 2 else AFTER, given[-1] - begun[-1]
            print(f"{way}: {seconds:.2f} s from the last step to the row, of which {alone[-1]:.2f} s evaluation", flush=True)
    evaluation_s = statistics.mean(alone[3:-1:2])
    whole = [end - start - evaluation_s for start, end in zip(begun, given, strict=False)]
    return evaluation_s, {AFTER: whole[3::2], DURING: whole[2::2]}


def recipe(folder: Path, layers: int, texts: int, evaluations: int) -> Recipe:
    """Fine-tuning in so many epochs of one step, with an evaluation of so many texts after each."""
    with open(TEXTS / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    files = {}
    for split, part in (("train", rows[:4]), ("validation", rows[4 : 4 + texts]), ("test", rows[-8:])):
        files[split] = str(folder / f"{split}.csv")
        with open(files[split], "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(part)
    return Recipe(
        tasks={"reviews": Task(**files)},
        task="reviews",
        encoder=Encoder(config={"model_type": "bert", "num_hidden_layers": layers}, vocabulary=400),
        stages=(Finetune(epochs=evaluations, batch_size=4, max_length=64),),
        precision="float32",
    )


if __name__ == "__main__":
    main()
