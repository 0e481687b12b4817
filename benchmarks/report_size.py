"""How long a report takes, what memory, and how large the page is, of a run with many records.

A made-up study: a search of so many trials with as many evaluations each as the lines allow, finals over seeds with test
predictions. Nothing is trained. Printed: lines and bytes of the records, seconds (wall and processor) until the tables are there
and until the whole report is, peak memory, bytes of the page and of the folder.

    python -m benchmarks.report_size [lines] [trials] [folder]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import numpy as np

SEEDS, TEXTS = 5, 2000
SPACE = {"finetune.learning_rate": {"log_uniform": [1e-5, 2e-4]}, "finetune.xi": {"uniform": [0.8, 1.0]},
         "finetune.truncation": {"choice": ["head", "tail", "head+tail"]}}  # fmt: skip
MEASURED = """
import resource, sys, time
from pathlib import Path
from analysis.pages import reports; from analysis.tables import result_table as tables
from analysis.records.run_folder import load
from analysis.results.final_settings import Finals

began, used = time.perf_counter(), time.process_time()
if sys.argv[2] == "tables":
    finals = Finals(load(sys.argv[1]))
    tables.result_text(finals), tables.markdown(finals), tables.latex(finals)
else:
    reports.write([Path(sys.argv[1])])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{time.perf_counter() - began:.1f} {time.process_time() - used:.1f} {peak:.0f}")
"""


def write(folder: Path, lines: int, trials: int) -> Path:
    """A run folder with about so many lines of records."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "large", "task": "t", "space": SPACE, "search": {"sampler": "tpe"}}))
    evaluations = max(1, lines // trials - 2)
    rng = np.random.default_rng(0)
    with open(folder / "records.jsonl", "w", encoding="utf-8") as out:
        _line(out, "study", status="started", versions={"torch": "2.13.0"})
        _line(out, "plan", trials=trials, splits={"train": 20_000, "validation": 1000, "test": TEXTS}, labels=["no", "yes"])
        for number in range(trials):
            params = {"finetune.learning_rate": float(10 ** rng.uniform(-5, -3.7)), "finetune.xi": float(rng.uniform(0.8, 1.0)),
                      "finetune.truncation": str(rng.choice(["head", "tail", "head+tail"]))}  # fmt: skip
            _trial(out, rng, f"t{number:03d}", "search", f"{number:08x}", 0, "", params, evaluations, stops=number % 3 == 2)
        truth, hard, settings = rng.integers(0, 2, TEXTS), rng.random(TEXTS), []
        for place in range(2):
            about = {"setting": f"{place:08x}", "label": ("best 1", "papers' setting")[place]}
            settings.append(about | {"rank": place + 1})
            for seed in range(SEEDS):
                name = f"f{place * SEEDS + seed:02d}"
                _trial(out, rng, name, "final", about["setting"], seed, about["label"], {"finetune.xi": 0.9}, 3)
                _test(out, folder, name, truth, hard + rng.normal(0, 0.05, TEXTS) > 0.9 - 0.02 * place)
        _line(out, "selection", settings=settings)
        _line(out, "study", status="finished")
    return folder


def _line(out: TextIO, event: str, **fields: Any) -> None:
    row = {"event": event, "study": "large", "utc": "2026-03-14T09:26:53.000Z", "session": 0} | fields
    out.write(json.dumps(row, separators=(",", ":")) + "\n")


def _trial(
    out: TextIO, rng: np.random.Generator, name: str, phase: str, setting: str, seed: int, label: str, params: dict[str, Any],
    evaluations: int, stops: bool = False,
) -> None:  # fmt: skip
    about = {
        "trial": name,
        "phase": phase,
        "params": params,
        "setting": setting,
        "seed": seed,
        "label": label,
        "stage_ids": [name * 8],
    }
    _line(out, "trial", status="started", **about)
    errors = 10 + 30 * np.exp(-np.linspace(0, 4, evaluations)) + rng.normal(0, 0.5, evaluations)
    errors = errors[: evaluations // 2 or 1] if stops else errors
    for step, error in enumerate(errors.tolist(), start=1):
        _line(
            out, "evaluation", trial=name, phase=phase, recipe="BERT-FiT", setting=setting, stage_id=name * 8, stage="finetune",
            stage_name="finetune", task="t", split="validation", seed=seed, epoch=4 * step / evaluations, step=10 * step,
            examples=1000, tokens=13_100 * step, error_rate_percent=error, macro_f1=1 - error / 100, micro_f1=1 - error / 100,
            loss=error / 30, train_loss=error / 40, learning_rate=1e-5, wall_s=7.5 * step, tokens_per_s=1746.7, device="cpu",
            precision="float32", source="computed", status="running",
        )  # fmt: skip
    about |= {
        "status": "stopped" if stops else "complete",
        "error_rate_percent": errors.tolist()[-1],
        "tokens": 13_100 * len(errors),
    }
    _line(out, "trial", epochs=4.0, seconds=30.0, **about)


def _test(out: TextIO, folder: Path, name: str, truth: np.ndarray, wrong: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    error = 100 * float(wrong.mean())
    where = {"stage": "test", "stage_id": f"test-{name}", "task": "t", "split": "test", "examples": len(truth)}
    _line(
        out, "evaluation", trial=name, phase="final", error_rate_percent=error, macro_f1=1 - error / 100, status="complete", **where
    )
    (folder / "predictions").mkdir(exist_ok=True)
    columns = {"index": np.arange(len(truth)), "label": truth, "prediction": np.where(wrong, 1 - truth, truth)}
    pq.write_table(pa.table(columns), folder / "predictions" / f"{name}-test.parquet")


def main() -> None:
    lines, trials = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 1_000_000), (2, 1000)))
    with tempfile.TemporaryDirectory() as aside:
        folder = write(Path(sys.argv[3] if len(sys.argv) > 3 else aside) / "run", lines, trials)
        records = folder / "records.jsonl"
        with open(records, "rb") as file:
            print(f"records: {sum(1 for _ in file):,} lines, {records.stat().st_size / 1e6:.0f} MB; {trials:,} trials")
        for what in ("tables", "report"):
            done = subprocess.run([sys.executable, "-c", MEASURED, str(folder), what], check=True, capture_output=True, text=True)
            wall, used, peak = done.stdout.split()
            print(f"{what}: {wall} s, {used} s of processor, peak {peak} MB")
        page = (folder / "report" / "report.html").stat().st_size
        whole = sum(path.stat().st_size for path in (folder / "report").rglob("*") if path.is_file())
        print(f"page: {page / 1e6:.2f} MB; whole report: {whole / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
