"""Fine-tuning on several tasks at once (Sun et al. 2019, sections 3.3 and 5.5): its model and its job for the loop.

All tasks share the encoder and its pooler; every task has its own linear head. The batch of a step is of one task. It updates the
shared weights and the head of that task; the other heads are unchanged, including their moments and weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.batches.pack import Example
from trainables.batches.tokenise import Pieces
from trainables.data.task_mixture import TaskMixture
from trainables.encoder.load import Base, load_encoder_weights
from trainables.encoder.occurring_embedding import train_occurring
from trainables.heads.classifier import Classifier, classifier
from trainables.scores.evaluate import measured, predict, write_predictions
from trainables.settings.stages import Multitask
from trainables.stages import finetune
from trainables.stages.finetune import examples
from trainables.training import optimizer
from trainables.training.loop import Job, Row
from trainables.training.runtime import Runtime

THRESHOLDS = "one"
"""Thresholds of multi-label tasks in validation: the default of fine-tuning."""


class Heads(nn.Module):
    """A linear layer per task, one of which is in use at a time."""

    def __init__(self, whole: nn.Linear, classes: Mapping[str, int]) -> None:
        """Split a layer over the classes of all tasks into one layer per task; `classes` is {key: number of classes}."""
        super().__init__()
        self.heads = nn.ModuleDict({key: nn.Linear(whole.in_features, count) for key, count in classes.items()})
        rows = zip(whole.weight.split(list(classes.values())), whole.bias.split(list(classes.values())), strict=True)
        with torch.no_grad():
            for key, (weight, bias) in zip(classes, rows, strict=True):
                self.heads[key].load_state_dict({"weight": weight, "bias": bias})
        self.used = next(iter(classes))

    def use(self, key: str) -> None:
        """Select the head of a task; only this head is trained."""
        self.used = key
        for other, head in self.heads.items():
            head.requires_grad_(other == key)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits [b, classes of the task in use] of the texts' vectors [b, H]."""
        logits: Tensor = self.heads[self.used](vectors)
        return logits


def model_of(stage: Multitask, base: Base, members: TaskMixture) -> tuple[Classifier, Heads]:
    """(the model before training, its heads); new weights are drawn from the stage's seed, for all tasks at once."""
    classes = {key: len(data.labels) for key, data in members.tasks.items()}
    model = classifier(base, sum(classes.values()), stage.pooling, stage.dropout, stage.seed)
    assert isinstance(model.classifier, nn.Linear)
    model.classifier = heads = Heads(model.classifier, classes)
    return model, heads


def drawn_tasks(probabilities: np.ndarray[Any, Any], steps: int, seed: int) -> np.ndarray[Any, Any]:
    """[steps]: index of the task of every step. It depends only on the seed and the step."""
    return np.searchsorted(probabilities.cumsum()[:-1], np.random.default_rng((seed, 0)).random(steps), side="right")


def turns(drawn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[steps]: number of earlier steps with the same task."""
    earlier = np.zeros(len(drawn), dtype=np.int64)
    for task in np.unique(drawn):
        earlier[drawn == task] = np.arange((drawn == task).sum())
    return earlier


def job(
    stage: Multitask,
    base: Base,
    parent: Path | None,
    members: TaskMixture,
    pieces: Mapping[str, Mapping[str, Pieces]],
    runtime: Runtime,
) -> Job:
    """Fine-tune `base`, or the weights of `parent`, on all tasks of `members`.

    `pieces` is {key of a task: {split: its pieces}} for training and validation. Heads of `parent` for the same tasks are loaded.
    """
    model, heads = model_of(stage, base, members)
    if parent is not None:
        load_encoder_weights(model, parent)
    train = [examples(data.train, pieces[key]["train"], base, stage) for key, data in members.tasks.items()]
    validation = {key: examples(data.validation, pieces[key]["validation"], base, stage) for key, data in members.tasks.items()}
    train_occurring(model.encoder, np.concatenate([example.ids for texts in train for example in texts]))
    model.to(runtime.device)
    per_epoch = members.steps_per_epoch(stage.batch_size)
    steps, keys = per_epoch * stage.epochs, list(members.tasks)
    drawn = drawn_tasks(members.probabilities(stage.sampling), steps, stage.seed)
    earlier = turns(drawn)

    @lru_cache(maxsize=2 * len(keys))  # a batch may span two passes of its task
    def order(task: int, passed: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng((stage.seed, 1, task, passed)).permutation(len(train[task]))

    def batch(step: int) -> list[Example]:
        # Endless passes over each task, each in its own order; a batch may span two passes of its task.
        task, start = int(drawn[step]), int(earlier[step]) * stage.batch_size
        places = (divmod(position, len(train[task])) for position in range(start, start + stage.batch_size))
        return [train[task][order(task, passed)[index]] for passed, index in places]

    latest: dict[str, np.ndarray[Any, Any]] = {}
    scores: dict[str, Row] = {}

    def evaluate(step: int, model: nn.Module) -> Row:
        for key, data in members.tasks.items():
            heads.use(key)
            latest[key] = predict(model, base, validation[key], runtime)
            scores[key] = measured(latest[key], data.validation, data.labels, THRESHOLDS)
        return {"epoch": step // per_epoch, "split": "validation", "by_task": dict(scores)}

    def artifact_files(folder: Path) -> dict[str, Path]:
        paths = {key: folder / f"predictions-validation-{key}.parquet" for key in latest}
        for key, path in paths.items():
            write_predictions(path, latest[key], members.tasks[key].validation.labels, scores[key].get("thresholds"))
        return {path.name: path for path in paths.values()}

    groups = optimizer.parameter_groups(
        model,
        model.encoder,
        base.layers,
        learning_rate=stage.learning_rate,
        xi=stage.xi,
        variant=stage.xi_variant,
        weight_decay=stage.weight_decay,
    )
    return Job(
        base=base,
        model=model,
        **optimizer.for_job(stage, groups, steps),
        examples=batch,
        loss=finetune.task_loss,
        weight=len,
        evaluate_at=frozenset(range(per_epoch, steps + 1, per_epoch)),
        evaluate=evaluate,
        seed=stage.seed,
        thaw=lambda step: heads.use(keys[drawn[step]]),
        artifact_files=artifact_files,
    )
