"""An ablation through the command: cells over seeds under their names, shared stages, kills, what is there already."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.records import record
from analysis.results.read_ablation import ledger
from study.ablations import reproduce
from study.ablations.ablation_file import load
from study.ablations.grid import grid
from study.run import launch
from tests.helpers import TINY_BERT, reviews, write_csv
from tests.study.run.test_faults import assert_computed_once
from tests.study.tiny import ROOT, alive, answer, begin, family, records, refused, study, study_here, table, wait_for
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader


def tiny_ablation(folder: Path, **changes: Any) -> Path:
    """Four settings of one recipe, one of which diverges, and one of another, over two seeds; a two-layer BERT from scratch."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: write_csv(folder / f"{split}.csv", reviews("sls_imdb", split, n)) for split, n in (("train", 60), ("test", 24))}
    finetune = {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3}
    data: dict[str, Any] = {
        "name": "tiny",
        "title": "A tiny one",
        "tasks": {"reviews": files | {"validation_share": 0.25, "published": "Reviews"}},
        "encoder": {"config": TINY_BERT, "vocabulary": 400},
        "precision": "float32",
        "recipe": [{"pretrain": {"schedule_steps": 6, "steps": 0, "batch_size": 8, "max_length": 24}}, {"finetune": finetune}],
        "settings": [
            {"row": "head+tail"},
            {"row": "head", "column": "a column", "set": {"finetune.truncation": "head"}},
            {"row": "3 steps", "set": {"pretrain.steps": 3}},
            # In float32 an epsilon of 1e-300 is none: Adam divides 0 by 0 for the embeddings of words that a batch has not.
            {"row": "diverges", "set": {"finetune.epsilon": 1e-300}},
            {"row": "one epoch", "recipe": [{"finetune": finetune | {"epochs": 1}}]},
        ],
        "claims": [{"says": "both ends", "better": {"row": "head+tail"}, "worse": {"row": "head", "column": "a column"}}],
        "seeds": 2,
        "resources": {"concurrent": 1},
        "scales": {"smoke": {"set": {"finetune.epochs": 1}}},
    }
    path = folder / f"{data['name']}.yaml"
    path.write_text(yaml.safe_dump(data | changes), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Run:
    file: Path
    folder: Path
    store: Path
    said: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny ablation, run to its end by the command."""
    folder = tmp_path_factory.mktemp("ablation")
    path, run, store = tiny_ablation(folder / "input"), folder / "the run", folder / "store"
    done = study_here("reproduce", path, "--scale", "paper", "--out", run, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(path, run, store, done.stdout)


def ends(folder: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """{(phase, label, seed): the last record of that trial} of a study."""
    return {(row["phase"], row["label"], row["seed"]): row for row in records(folder, "trial")}


def test_every_cell_is_run_over_all_seeds_under_its_name(finished: Run) -> None:
    found = ends(finished.folder / "reviews-1")
    labels = ("head+tail", "head | a column", "3 steps", "diverges")
    assert set(found) == {("search", label, 0) for label in labels} | {("final", label, n) for label in labels for n in (0, 1)}
    read = {row["trial"] for row in records(finished.folder / "reviews-1", "evaluation") if row["split"] == "test"}
    complete = {row["trial"] for key, row in found.items() if key[0] == "final" and row["status"] == "complete"}
    assert read == complete
    assert {row["label"] for row in found.values() if row["trial"] in read} == set(labels) - {"diverges"}
    assert set(ends(finished.folder / "reviews-2")) == {("search", "one epoch", 0), *(("final", "one epoch", n) for n in (0, 1))}


def test_what_the_search_ran_is_not_run_again(finished: Run) -> None:
    found = ends(finished.folder / "reviews-1")
    for (phase, label, seed), row in found.items():
        if phase == "final" and label != "diverges":
            assert row["source"] == ("loaded" if seed == 0 else "computed")


def test_what_diverged_stands_as_diverged_for_every_seed_and_is_run_once_for_each(finished: Run) -> None:
    found = ends(finished.folder / "reviews-1")
    assert {found[phase, "diverges", seed]["status"] for phase, seed in (("search", 0), ("final", 0), ("final", 1))} == {"diverged"}
    assert "step" in found["final", "diverges", 0]["reason"]
    name = found["final", "diverges", 0]["trial"]
    rows = [row for row in records(finished.folder / "reviews-1", "trial") if row["trial"] == name]
    assert [row["status"] for row in rows] == ["diverged"], "it was never started"
    selection = records(finished.folder / "reviews-1", "selection")[-1]["settings"]
    assert {each["label"] for each in selection} == {"head+tail", "head | a column", "3 steps"}


def test_the_terminal_says_what_is_run(finished: Run) -> None:
    assert finished.said.splitlines()[:2] == ["tiny at scale paper: A tiny one", "  as in its file"]
    assert "tiny-paper: study 1 of 2, reviews-1: 4 settings over 2 seeds on reviews" in finished.said
    assert "tiny-paper finished in" in finished.said
    assert re.search(r"tiny-paper: to train on: [\d.]+ k of [\d.]+ k tokens .* here, by a formula", finished.said)
    assert "Trained here on" in finished.said
    assert "sharing saved" in finished.said


def test_the_resolved_ablation_names_its_studies(finished: Run) -> None:
    there = yaml.safe_load((finished.folder / "ablation.yaml").read_text())
    assert there["studies"] == [
        {"folder": "reviews-1", "task": "reviews", "settings": [0, 1, 2, 3]},
        {"folder": "reviews-2", "task": "reviews", "settings": [4]},
    ]
    assert (there["scale"], there["changes"], there["seeds"]) == ("paper", [], 2)
    labels = [f"{s['row']} | {s['column']}" if s.get("column") else s["row"] for s in there["settings"]]
    for part in there["studies"]:
        searched = [row["label"] for row in records(finished.folder / part["folder"], "trial") if row["phase"] == "search"]
        assert list(dict.fromkeys(searched)) == [labels[index] for index in part["settings"]]


def test_only_the_first_study_of_a_task_has_a_bag_of_words_and_ray_starts_once(finished: Run) -> None:
    assert [len(records(finished.folder / name, "baseline")) for name in ("reviews-1", "reviews-2")] == [2, 0]
    logs = [(finished.folder / name / "study.log").read_text() for name in ("reviews-1", "reviews-2")]
    assert ["Started a local Ray instance" in log for log in logs] == [True, False]


def test_the_store_keeps_no_fine_tuned_weights(finished: Run) -> None:
    kept = {path.parent.parent.name for path in (finished.store / "artifacts").rglob("model.safetensors")}
    assert kept == {row["stage_id"] for row in records(finished.folder / "reviews-1", "stage")}


def test_a_finished_one_says_so_and_runs_nothing(finished: Run) -> None:
    before = (finished.folder / "reviews-1" / "records.jsonl").read_bytes()
    start = time.monotonic()
    done = study("reproduce", finished.file, "--scale", "paper", "--out", finished.folder, "--store", finished.store)
    assert done.returncode == 0
    assert "tiny-paper is finished; nothing was run again" in done.stdout
    assert time.monotonic() - start < 60
    assert (finished.folder / "reviews-1" / "records.jsonl").read_bytes() == before


def test_changed_inputs_of_its_studies_are_refused_at_once_or_accepted(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "input" / "tiny.yaml", tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    tiny_ablation(path.parent)
    assert "is finished" in answer(capsys, "reproduce", path, "--scale", "paper", "--out", folder)
    write_csv(path.parent / "test.csv", reviews("sls_imdb", "test", 25))
    said = refused(capsys, "reproduce", path, "--scale", "paper", "--out", folder)
    for name in ("reviews-1", "reviews-2"):
        assert f"--out {folder / name}: inputs have changed" in said
    assert "tasks.reviews.test: 25 texts, was 24" in said
    parts = grid(load(path), "paper").parts
    left = reproduce._left(grid(load(path), "paper"), folder, accept=True, retry_failed=False, reader=Reader())
    assert left == (list(parts), True)
    record.Records(folder / "reviews-2" / "records.jsonl").append("inputs", inputs={}, changed=["a: another content"])
    assert "reviews-2: inputs changed before session 1, which was accepted: a: another content" in str(ledger(folder).problems)


def test_more_seeds_go_on_in_the_same_folder_and_another_size_does_not(finished: Run) -> None:
    loaded = load(finished.file)
    assert all(launch.opened(part.study, finished.folder / part.folder)[0] for part in grid(loaded, "paper").parts)
    assert not any(launch.opened(part.study, finished.folder / part.folder)[0] for part in grid(loaded, "paper", seeds=3).parts)
    for part in grid(loaded, "paper", overrides=["finetune.epochs=3"]).parts:
        with pytest.raises(ConfigError, match="the folder of another study"):
            launch.opened(part.study, finished.folder / part.folder)


def test_the_folder_of_something_else_is_refused(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "reproduce", finished.file, "--scale", "smoke", "--out", finished.folder)
    assert "holds tiny at scale paper, not tiny at scale smoke" in said
    changed = ("--set", "finetune.epochs=3")
    said = refused(capsys, "reproduce", finished.file, "--scale", "paper", "--out", finished.folder, *changed)
    assert "the folder of another study" in said
    (tmp_path / "notes.txt").touch()
    said = refused(capsys, "reproduce", finished.file, "--scale", "paper", "--out", tmp_path)
    assert "no run folder of an ablation" in said


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [("lock.json", False), ("study.log", False), ("ablation.yaml.123.new", False), ("ablation.yaml.bak", True), ("a.new", True)],
)
def test_a_folder_left_by_a_failed_start_is_used_again(tmp_path: Path, name: str, is_refused: bool) -> None:
    planned = grid(load(tiny_ablation(tmp_path / "input")), "smoke")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).touch()
    if is_refused:
        with pytest.raises(ConfigError, match="exists and is no run folder of an ablation"):
            reproduce._check_folder(planned, folder)
    else:
        reproduce._check_folder(planned, folder)


def test_wrong_input_is_told_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "reproduce", "tabel2")
    assert said == "error: 'tabel2' is neither an ablation nor a file NAME.yaml; did you mean 'table2'?\n"
    path = tiny_ablation(tmp_path / "input")
    (tmp_path / "input" / "test.csv").unlink()
    assert "test.csv" in refused(capsys, "reproduce", path, "--scale", "paper", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_list_names_all_that_are_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "reproduce", "--list")
    for name in (path.stem for path in (ROOT / "study" / "configs" / "ablations").glob("*.yaml")):
        assert f"\n{name} " in "\n" + said
    assert max(map(len, said.splitlines())) <= 80


def test_statistics_stand_beside_the_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"statistics": True, "settings": [], "claims": [], "scales": {}, "source": {"paper": "sun2019", "table": "Table 1"}}
    path = tiny_ablation(tmp_path / "input", **data)
    text = path.read_text().replace("published: Reviews", "published: TREC\n    domain: question")
    path.write_text(text)
    options = ("--scale", "paper", "--out", tmp_path / "run")
    answer(capsys, "reproduce", path, *options)
    (found,) = json.loads((tmp_path / "run" / "statistics.json").read_text())
    texts = [text for text, _ in reviews("sls_imdb", "train", 60)]
    lengths = [len(text.split()) for text in texts]  # its vocabulary is made only when it is trained
    assert found["unit"] == "words"
    assert found["row"]["average_length"] == pytest.approx(sum(lengths) / 60)
    assert found["row"] | {"average_length": 0} == {
        "classes": 2,
        "type": "Question",
        "average_length": 0,
        "max_length": max(lengths),
        "exceeding_512_ratio": 0.0,
        "train_samples": 60,
        "test_samples": 24,
    }
    assert found["published_row"]["train_samples"] == "5452"
    assert "nothing was run again" in answer(capsys, "reproduce", path, *options)


def _evaluated(folder: Path, count: int) -> bool:
    return len(records(folder, "evaluation")) >= count


def test_killed_in_each_study_it_comes_to_the_same_tables(finished: Run, tmp_path: Path) -> None:
    seed = int(time.time())
    print(f"seed of the moments: {seed}")
    moments = random.Random(seed)
    folder = tmp_path / "run"
    call = ("reproduce", finished.file, "--scale", "paper", "--out", folder, "--store", tmp_path / "store")
    left: set[int] = set()

    for name in ("reviews-1", "reviews-2"):
        wanted = moments.randint(1, len(records(finished.folder / name, "evaluation")) // 2 + 1)
        process = begin(*call)
        wait_for(partial(_evaluated, folder / name, wanted), process)
        left |= family(process.pid)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.communicate()
    done = study_here(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("reviews-1", "reviews-2"):
        assert table(folder / name) == table(finished.folder / name)
    assert_computed_once(folder / "reviews-1", tmp_path / "store")
    assert not alive(left), "the next start clears away what the killed one left"


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tiny_ablation(tmp_path / "input", settings=[{"row": "head+tail"}], claims=[], scales={})
    folder = tmp_path / "run"
    call = ("reproduce", path, "--set", "finetune.epochs=400", "--out", folder, "--store", tmp_path / "store")
    process = begin(*call)
    wait_for(lambda: len(records(folder / "reviews", "evaluation")) >= 8, process)
    pids = family(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "study reproduce" in err
    assert "--set finetune.epochs=400 --out" in err
    assert "Traceback" not in out + err
    assert records(folder / "reviews", "study")[-1]["status"] == "interrupted"
    wait_for(lambda: not alive(pids), seconds=10)


SMOKE = ("table2", "table4", "figure2", "figure3", "figure4")


@pytest.mark.slow
def test_a_shipped_ablation_at_smoke_scale_cut_short(tmp_path: Path) -> None:
    """The same as below on a twentieth of the texts, with one seed."""
    less = ("--seeds", 1, "--set", "finetune.train_share=0.05", "--set", "finetune.epochs=1")
    done = study("reproduce", "table2", "--scale", "smoke", *less, "--out", tmp_path / "run", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finetune.train_share: 1.0 -> 0.05" in done.stdout
    assert_whole(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_a_shipped_ablation_at_smoke_scale(name: str, tmp_path: Path) -> None:
    call = ("reproduce", name, "--scale", "smoke", "--out", tmp_path / "run", "--store", tmp_path / "store")
    done = study(*call, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(tmp_path / "run")


def test_statistics_of_the_shipped_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "reproduce", "table1", "--scale", "smoke", "--out", tmp_path / "run")
    found = json.loads((tmp_path / "run" / "statistics.json").read_text())
    sizes = [len(reviews(name, "train")) for name in ("sls_imdb", "sls_yelp", "sls_amazon")]
    assert [each["published"] for each in found] == ["IMDb", "Yelp P.", "Yelp F."]
    assert [each["row"]["train_samples"] for each in found] == sizes
    assert all(each["published_row"]["classes"] for each in found)


def assert_whole(folder: Path) -> None:
    """Every setting of every study came to its end over all seeds, or diverged."""
    there = yaml.safe_load((folder / "ablation.yaml").read_text())
    for part in there["studies"]:
        found = ends(folder / part["folder"])
        labels = {label for phase, label, _ in found if phase == "final"}
        assert len(labels) == len(part["settings"])
        assert {(label, seed) for phase, label, seed in found if phase == "final"} == {
            (label, seed) for label in labels for seed in range(there["seeds"])
        }
        assert {row["status"] for row in found.values()} <= {"complete", "diverged"}
