"""A whole study through the command: every way to run a trial, what is recorded, what is kept, what going on means."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.text import write_whole
from study.cluster.machine import this_machine
from study.run.scribe import hours_spent, ranking
from tests.helpers import ray_elsewhere, reviews, shared_ray, write_csv
from tests.study.conftest import Run
from tests.study.tiny import (
    ROOT,
    answer,
    begin,
    environment,
    records,
    refused,
    study,
    study_here,
    trial_actor,
    wait_for,
    write_study,
)


def test_the_terminal_shows_the_result_and_none_of_the_noise(finished: Run) -> None:
    said = finished.done.stdout
    assert "tiny finished" in said
    assert str(finished.folder / "report" / "report.html") in said
    assert finished.done.stderr == ""
    assert not any(word in said for word in ("WARNING", "INFO", "ray.init", "Traceback", "\x1b"))
    assert "Started a local Ray instance" in (finished.folder / "study.log").read_text()


def test_every_part_is_recorded_once_and_in_order(finished: Run) -> None:
    rows = records(finished.folder)
    first_of = [event for event, _ in Counter(row["event"] for row in rows).items()]
    assert first_of == ["study", "inputs", "plan", "evaluation", "stage", "baseline", "trial", "selection"]
    assert [row["status"] for row in rows if row["event"] == "study"] == ["started", "finished"]
    assert [row["split"] for row in rows if row["event"] == "baseline"] == ["validation", "test"]
    evaluations = [
        tuple(row.get(k) for k in ("trial", "stage_id", "split", "epoch", "step")) for row in rows if row["event"] == "evaluation"
    ]
    assert max(Counter(evaluations).values()) == 1


def test_the_shared_stage_ran_once_under_ray_train(finished: Run) -> None:
    stages = records(finished.folder, "stage")
    assert [(row["steps"], row["status"], row["kind"]) for row in stages] == [
        (3, "computed", "pretrain"),
        (6, "computed", "pretrain"),
    ]
    assert len({row["trajectory_id"] for row in stages}) == 1
    shared = [row for row in records(finished.folder, "evaluation") if row["stage"] == "pretrain"]
    assert {row.get("trial") for row in shared} == {None}
    assert all(row["source"] == "computed" for row in shared)


def test_trials_end_with_what_they_found(finished: Run) -> None:
    ends = {row["trial"]: row for row in records(finished.folder, "trial")}
    assert list(ends) == ["t000", "t001", "t002", "t003", *sorted(name for name in ends if name.startswith("f"))]
    assert ends["t000"]["params"] == {"finetune.learning_rate": 1e-3, "pretrain.steps": 0}
    for row in ends.values():
        assert row["status"] in ("complete", "stopped")
        assert row["seconds"] > 0
        assert row["tokens"] > 0
        mine = [e for e in records(finished.folder, "evaluation") if e.get("trial") == row["trial"] and e["split"] == "validation"]
        last = max(mine, key=lambda e: e["step"])
        assert (row["error_rate_percent"], row["epochs"]) == (last["error_rate_percent"], last["epoch"])


def test_finals_are_the_best_and_the_first_over_the_seeds(finished: Run) -> None:
    finals = {row["trial"]: row for row in records(finished.folder, "trial") if row["phase"] == "final"}
    by_setting: dict[str, list[int]] = {}
    for row in finals.values():
        by_setting.setdefault(row["setting"], []).append(row["seed"])
    assert all(seeds == [0, 1] for seeds in by_setting.values())
    assert any("the usual" in row["label"] for row in finals.values())
    assert any("best 1" in row["label"] for row in finals.values())
    searched = {row["setting"]: row for row in records(finished.folder, "trial") if row["phase"] == "search"}
    for row in finals.values():
        ran_whole = row["seed"] == 0 and searched[row["setting"]]["status"] == "complete"
        assert row["source"] == ("loaded" if ran_whole else "computed")


def test_the_choice_is_made_on_validation_and_test_is_read_after_it_for_finals_only(finished: Run) -> None:
    rows = records(finished.folder)
    (selection,) = [row for row in rows if row["event"] == "selection"]
    errors: dict[str, list[float]] = {}
    for row in [row for row in rows if row["event"] == "trial" and row["phase"] == "final" and row["status"] == "complete"]:
        errors.setdefault(row["setting"], []).append(row["error_rate_percent"])
    means = {setting: sum(values) / len(values) for setting, values in errors.items()}
    assert [s["error_rate_percent"] for s in selection["settings"]] == pytest.approx(sorted(means.values()))
    read = [index for index, row in enumerate(rows) if row["event"] == "evaluation" and row["split"] == "test"]
    assert min(read) > rows.index(selection)
    finals = {row["trial"] for row in rows if row["event"] == "trial" and row["phase"] == "final"}
    assert {rows[index]["trial"] for index in read} == finals
    assert len(read) == len(finals)


def test_predictions_of_the_finals_lie_in_the_run_folder(finished: Run) -> None:
    for row in [row for row in records(finished.folder, "evaluation") if row["split"] == "test"]:
        found = pq.read_table(finished.folder / "predictions" / f"{row['trial']}-test.parquet").to_pydict()
        assert list(found) == ["index", "label", "prediction", "probabilities", "pieces"]
        wrong = sum(a != b for a, b in zip(found["label"], found["prediction"], strict=True))
        assert 100 * wrong / len(found["label"]) == pytest.approx(row["error_rate_percent"])


def test_the_store_keeps_weights_of_the_finals_only_and_no_state(finished: Run) -> None:
    kept = {path.parent.parent.name for path in (finished.store / "artifacts").rglob("model.safetensors")}
    ends = {row["trial"]: row for row in records(finished.folder, "trial")}
    finals = {row["stage_ids"][-1] for name, row in ends.items() if name.startswith("f")}
    pretrained = {row["stage_id"] for row in records(finished.folder, "stage")}
    searched = {row["stage_ids"][-1] for name, row in ends.items() if name.startswith("t")}
    assert kept == finals | pretrained
    assert searched - finals, "every setting of this study came into the finals, so nothing was there to prune"
    left = {path.relative_to(finished.store).parts[1] for path in (finished.store / "states").rglob("*.safetensors")}
    assert not left & (finals | searched)


def test_a_second_run_says_so_at_once_and_runs_nothing(finished: Run) -> None:
    before = (finished.folder / "records.jsonl").read_bytes()
    start = time.monotonic()
    done = study("run", finished.file, "--out", finished.folder, "--store", finished.store)
    assert time.monotonic() - start < 10
    assert done.returncode == 0
    assert "nothing was run again" in done.stdout
    assert (finished.folder / "records.jsonl").read_bytes() == before
    loaded = (
        "import sys; from study.run import launch; print(sorted({'torch', 'ray', 'transformers', 'optuna'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == "[]"
    )


def test_status_and_report_read_the_records_alone(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(finished.folder / "records.jsonl", copied)
    said = answer(capsys, "status", copied)
    assert "tiny: finished" in said
    assert "search 4/4" in said
    assert "best so far: t" in said
    cores = int(this_machine().cpus)
    assert f"computes on {cores} CPU core{'s' * (cores != 1)}, 1 a trial, 1 trial at a time" in said
    assert max(map(len, said.splitlines())) <= 100
    found = json.loads(answer(capsys, "status", copied, "--json"))
    assert (found["kind"], found["name"], found["state"], found["process"]) == ("study", "tiny", "finished", None)
    assert (found["search"]["planned"], found["search"]["over"]) == (4, 4)
    assert found["search"]["complete"] + found["search"]["stopped"] == 4
    assert found["finals"]["tested"] == found["finals"]["complete"] == found["finals"]["over"]
    ends = {row["trial"]: row for row in records(finished.folder, "trial")}
    assert {each["trial"]: (each["state"], each["epoch"], each["score_percent"], each["params"]) for each in found["trials"]} == {
        name: (row["status"], row["epochs"], row["error_rate_percent"], row["params"]) for name, row in ends.items()
    }
    best = found["best"]
    assert best["score_percent"] == ends[best["trial"]]["error_rate_percent"]
    assert ends[best["trial"]]["params"] == best["params"]
    answer(capsys, "report", finished.folder, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


def test_the_folder_of_another_study_is_refused(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "run", finished.file, "--out", finished.folder, "--set", "recipe.finetune.epochs=2")
    assert "another study" in said
    assert "epochs" in said


def test_a_raised_budget_and_more_seeds_go_on_where_the_study_stood(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    shutil.copytree(finished.folder, folder)
    more = ("--set", "budget.trials=5", "--set", "final.seeds=3")
    done = study_here("run", finished.file, "--out", folder, "--store", finished.store, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    old, new = records(finished.folder), records(folder)
    assert new[: len(old)] == old
    added = new[len(old) :]
    searched = {row["trial"] for row in added if row["event"] == "trial" and row["phase"] == "search"}
    assert searched == {"t004"}
    before, after = ({(r["setting"], r["seed"]): r["trial"] for r in rows if r.get("phase") == "final"} for rows in (old, new))
    assert before.items() <= after.items(), "a name belongs to a setting and a seed for good"
    computed = [row for row in added if row["event"] == "evaluation" and row["source"] == "computed" and row["phase"] == "final"]
    assert {row["seed"] for row in computed if row["setting"] in {setting for setting, _ in before}} == {2}
    assert [row["status"] for row in added if row["event"] == "study"] == ["resumed", "finished"]
    assert not [row for row in added if row["event"] == "stage"]


def test_trials_under_ray_train_give_back_their_cpus_also_when_one_is_killed(tmp_path: Path) -> None:
    every_cpu = int(this_machine().cpus)  # what one trial does not give back, the next one waits for in vain
    path = write_study(
        tmp_path,
        resources={"execution": "train", "cpus": every_cpu},
        search={"sampler": "grid", "early_stopping": {"kind": "asha", "grace_epochs": 1, "reduction": 2}},
        budget={"trials": 2},
        final={"top_k": 1, "seeds": 1},
        baseline=False,
        space={"finetune.learning_rate": {"choice": [3e-3, 1e-6]}},
        recipe=[{"finetune": {"epochs": 12, "batch_size": 8, "max_length": 24, "head_tokens": 6}}],  # time enough to be killed in
    )
    folder = tmp_path / "run"
    process = begin("run", path, "--out", folder, "--store", tmp_path / "store")
    wait_for(lambda: [row for row in records(folder, "evaluation") if row["trial"] == "t000"], process)
    os.kill(wait_for(partial(trial_actor, process.pid), process, 20), signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "its process died; it continues" in out
    assert {row["trial"] for row in records(folder, "evaluation") if row["split"] == "test"} == {"f00"}
    ends = {row["trial"]: row["status"] for row in records(folder, "trial")}
    assert ends == {"t000": "complete", "t001": "stopped", "f00": "complete"}


def test_a_report_that_cannot_be_written_is_wrong_input(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    said = refused(capsys, "report", finished.folder, "--out", tmp_path / "file" / "report")
    assert "give a folder that can be written" in said


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
arguments = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**arguments, "include_dashboard": False})
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(**arguments)
    cluster.wait_for_nodes()
    print("grown", flush=True)
cluster.shutdown()
"""


class GrowingCluster:
    """A Ray cluster of nodes with one CPU each on this machine, which are added one by one."""

    def __init__(self, folder: Path) -> None:
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(**self.token, **ray_elsewhere(folder)),
        )
        self.address = self._said(lambda line: re.fullmatch(r"[\d.]+:\d+", line) is not None)
        self.nodes = 1

    def _said(self, wanted: Callable[[str], bool]) -> str:
        assert self.process.stdout is not None
        return next(line for line in map(str.strip, self.process.stdout) if wanted(line))

    def grow(self) -> None:
        """One node more."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._said("grown".__eq__)
        self.nodes += 1

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[GrowingCluster]:
    before = shared_ray()
    folder = Path(tempfile.mkdtemp(prefix="grows-", dir="/tmp"))
    made = GrowingCluster(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert shared_ray() == before


@pytest.fixture
def several_nodes(cluster: GrowingCluster) -> GrowingCluster:
    if cluster.nodes == 1:
        cluster.grow()
    return cluster


def test_two_workers_on_two_nodes_of_an_existing_cluster_find_what_one_finds(
    finished: Run, several_nodes: GrowingCluster, tmp_path: Path
) -> None:
    path = write_study(
        tmp_path,
        resources={"workers": 2},
        budget={"trials": 1},
        final={"top_k": 1, "seeds": 1},
        space={"pretrain.steps": {"choice": [0]}},
        search={"sampler": "grid"},
        baseline=False,
    )
    there = ("--address", several_nodes.address)
    done = study("run", path, "--out", tmp_path / "run", "--store", tmp_path / "store", *there, **several_nodes.token)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [row for row in records(tmp_path / "run", "evaluation") if row["trial"] == "t000"]
    alone = [row for row in records(finished.folder, "evaluation") if row.get("trial") == "t000"]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in alone], abs=1e-5)
    assert [row["stage_id"] for row in found] == [row["stage_id"] for row in alone]


def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster: GrowingCluster, tmp_path: Path) -> None:
    asked = cluster.nodes + 1
    options = ("--address", cluster.address, "--set", f"resources.workers={asked}")
    done = study("run", write_study(tmp_path), "--out", tmp_path / "run", *options, **cluster.token)
    assert done.returncode == 2
    assert f"{asked} workers" in done.stderr
    assert "set resources.wait_minutes" in done.stderr


JOIN = """
import sys, types
from ray.autoscaler import sdk
from study.cluster.ray_session import ray_session

def told(bundles, ask=sdk.request_resources):
    ask(bundles=bundles)
    print("asked for", len(bundles), flush=True)

sdk.request_resources = told
resources = types.SimpleNamespace(cpus=1, gpus=0, workers=int(sys.argv[2]), concurrent=None, wait_minutes=3)
with ray_session(resources, sys.argv[1]) as machine:
    print("has", machine.cpus)
"""


def test_a_cluster_that_grows_is_waited_for(cluster: GrowingCluster) -> None:
    wanted = cluster.nodes + 1
    arguments = [sys.executable, "-c", JOIN, cluster.address, str(wanted)]
    joining = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**cluster.token)
    )
    assert joining.stdout is not None
    asked = joining.stdout.readline()
    cluster.grow()
    out, err = joining.communicate(timeout=200)
    assert joining.returncode == 0, out + err
    assert (asked + out).splitlines() == [f"asked for {wanted}", f"has {wanted:.1f}", "asked for 0"]


SEEN = """
import sys, types
from study.cluster.ray_session import check_seen, ray_session
from trainables.settings.errors import ConfigError
from trainables.store.store import Store
resources = types.SimpleNamespace(cpus=1, gpus=0, workers=1, concurrent=None, wait_minutes=0)
store = Store(sys.argv[2])
with ray_session(resources, sys.argv[1]):
    check_seen(store, [sys.executable])
    assert store.files.names("seen") == []
    try:
        check_seen(store, [sys.executable, "/not/there.csv"])
    except ConfigError as error:
        print(*error.faults, sep="\\n")
"""


def test_what_the_nodes_of_a_cluster_do_not_see_is_said(several_nodes: GrowingCluster, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SEEN, several_nodes.address, str(tmp_path / "store")]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=environment(**several_nodes.token), timeout=120, check=True
    )
    *faults, hint = done.stdout.strip().splitlines()
    assert len(faults) == several_nodes.nodes
    assert all("/not/there.csv: node " in fault and "does not see it" in fault for fault in faults)
    assert "--store" in hint


def row(session: int, utc: str) -> dict[str, object]:
    return {"event": "notice", "session": session, "utc": utc}


def test_hours_are_counted_over_all_sessions_and_not_between_them() -> None:
    rows = [
        row(0, "2026-01-01T10:00:00Z"),
        row(0, "2026-01-01T11:00:00Z"),
        row(1, "2026-01-03T10:00:00Z"),
        row(1, "2026-01-03T10:30:00Z"),
    ]
    assert hours_spent(rows) == pytest.approx(1.5)


def test_ranking_takes_each_setting_once_and_complete_trials_only() -> None:
    def trial(name: str, setting: str, error: float, status: str = "complete") -> dict[str, object]:
        return {
            "event": "trial",
            "phase": "search",
            "trial": name,
            "setting": setting,
            "error_rate_percent": error,
            "status": status,
        }

    rows = [trial("t0", "a", 9), trial("t1", "b", 7), trial("t2", "b", 7), trial("t3", "c", 1, "stopped"), trial("t4", "d", 7)]
    assert [each["trial"] for each in ranking(rows)] == ["t1", "t4", "t0"]
    by_f1 = [
        row | {"metric": "macro_f1", "objective_percent": 50.0 - error} for row, error in zip(rows, (9, 7, 7, 1, 8), strict=True)
    ]
    assert [each["trial"] for each in ranking(by_f1)] == ["t0", "t4", "t1"]
    assert ranking([by_f1[0] | {"objective_percent": None}]) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text in ("one", "two"):
        write_whole.write_whole(path, text)
        assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


def test_several_tasks_and_labels_go_through_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several tasks, shared under Ray Train; then fractions, few texts, several labels."""
    tasks: dict[str, Any] = {"several": {"multi_label": True}, "reviews": {}}
    for name, task in tasks.items():
        for split, count in (("train", 60), ("test", 24)):
            more = "|all" if name == "several" else ""
            rows = [(f"{text} It is {label}.", label + more) for text, label in reviews("sls_imdb", split, count)]
            task[split] = write_csv(tmp_path / f"{name}-{split}.csv", rows)
    path = write_study(
        tmp_path,
        tasks={name: task | {"domain": "film", "validation_share": 0.25} for name, task in tasks.items()},
        task="several",
        recipe=[
            {"multitask": {"epochs": 1, "batch_size": 8, "max_length": 24, "head_tokens": 6}},
            {"finetune": {"epochs": 2, "batch_size": 8, "max_length": 16, "head_tokens": 6, "train_examples": 30}},
        ],
        space={"finetune.truncation": {"choice": ["head", "hier-attention"]}},
        search={"sampler": "grid"},
        budget={"trials": 2},
        final={"top_k": 1, "seeds": 1},
    )
    done = study_here("run", path, "--out", tmp_path / "run", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = records(tmp_path / "run", "stage")
    assert [(row["kind"], row["status"]) for row in stages] == [("multitask", "computed")]
    assert {row["status"] for row in records(tmp_path / "run", "trial") if row["status"] != "started"} == {"complete"}
    (test,) = [row for row in records(tmp_path / "run", "evaluation") if row["split"] == "test"]
    assert set(test["f1_by_label"]) == {"all", "negative", "positive"}
    _goes_by_micro_f1(tmp_path / "run", done.stdout, answer(capsys, "status", tmp_path / "run"), test)
    assert set(stages[0]["by_task"]) == {"several", "reviews"}
    joint = [row for row in records(tmp_path / "run", "evaluation") if row["stage"] == "multitask"]
    assert stages[0]["by_task"] == joint[-1]["by_task"]
    with open(tmp_path / "run" / "report" / "tasks.csv", encoding="utf-8", newline="") as file:
        assert sorted(row["task"] for row in csv.DictReader(file)) == ["reviews", "several"]
    assert test["recipe"] == "BERT-MFiT-FiT"
    assert (tmp_path / "run" / "report" / "report.html").exists()


def test_selective_masking_goes_through_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scorer, marker and what is masked by it are shared under Ray Train; then the words are shown."""
    shared = {"batch_size": 8, "max_length": 24, "learning_rate": 1e-3}
    path = write_study(
        tmp_path,
        recipe=[
            {"marks": shared | {"epochs": 2, "scorer_epochs": 1, "scorer_learning_rate": 1e-3}},
            {"pretrain": shared | {"schedule_steps": 4, "steps": 4, "masking": "selective"}},
            {"finetune": shared | {"epochs": 1, "head_tokens": 6}},
        ],
        space={},
        search={},
        budget={"trials": 1},
        final={"top_k": 1, "seeds": 1},
        baseline=False,
    )
    by = ("--set", "tasks.reviews.metric=log_loss")
    done = study_here("run", path, "--out", tmp_path / "run", "--store", tmp_path / "store", *by)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = [(row["kind"], row["name"], row["status"]) for row in records(tmp_path / "run", "stage")]
    names = [("marks", "marks.scorer"), ("marks", "marks"), ("pretrain", "pretrain")]
    assert stages == [(*name, "computed") for name in names]
    evaluations = records(tmp_path / "run", "evaluation")
    marked = [row for row in evaluations if row["stage_name"] == "marks"]
    assert [(row["split"], row["epoch"]) for row in marked] == [("heldout", 1), ("heldout", 2)]
    assert all(0 <= row["mark_f1"] <= 1 for row in marked)
    assert {row["recipe"] for row in evaluations if row.get("trial")} == {"BERT-ITPT(selective)-FiT"}
    (trial,) = [row for row in records(tmp_path / "run", "trial") if row["phase"] == "search" and row["status"] != "started"]
    assert (trial["status"], len(trial["stage_ids"])) == ("complete", 4)
    (test,) = [row for row in evaluations if row["split"] == "test"]
    assert "\nlog loss in percent\n" in done.stdout
    assert f"{100 * test['loss']:.2f}" in done.stdout
    assert trial["objective_percent"] == pytest.approx(
        100 * next(row["loss"] for row in evaluations if row["split"] == "validation" and row.get("trial") == "t000")
    )
    shown = answer(capsys, "marks", tmp_path / "run", "--store", tmp_path / "store", "--texts", 2)
    assert "marks: words of the task's training texts" in shown
    assert "pretrain: masked words of the corpus" in shown
    assert "marks.scorer" in (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")


def _goes_by_micro_f1(run: Path, said: str, status: str, test: dict[str, Any]) -> None:
    """Everywhere from the records to the last line on the terminal."""
    (plan,) = records(run, "plan")
    assert (plan["metric"], plan["labels"]) == ("micro_f1", ["all", "negative", "positive"])
    ends = [row for row in records(run, "trial") if row["status"] == "complete"]
    for row in ends:
        mine = [e for e in records(run, "evaluation") if e.get("trial") == row["trial"] and e["split"] == "validation"]
        assert row["metric"] == "micro_f1"
        assert row["objective_percent"] == pytest.approx(100 - 100 * max(mine, key=lambda e: e["step"])["micro_f1"])
    search = [row for row in ends if row["phase"] == "search"]
    (selected,) = records(run, "selection")[-1]["settings"]
    assert selected["objective_percent"] == pytest.approx(min(row["objective_percent"] for row in search))
    assert re.search(r"^t000 +epoch 1/2 +loss \d\.\d+  micro-F1 [ \d]\d\.\d\d %", said, flags=re.MULTILINE)
    assert "\nmicro-F1 in percent, more is better\n" in said
    assert f"{100 * test['micro_f1']:.2f}" in said
    assert f"{100 - selected['objective_percent']:.2f} % validation micro-F1" in status
    (baseline,) = [row for row in records(run, "baseline") if row["split"] == "test"]
    assert set(baseline["f1_by_label"]) == set(test["f1_by_label"])
    kept = pq.read_table(run / "predictions" / "bag-of-words-test.parquet").to_pydict()
    wrong = sum(label != given for label, given in zip(kept["label"], kept["prediction"], strict=True))
    assert baseline["error_rate_percent"] == pytest.approx(100 * wrong / len(kept["label"]))
    rows = (run / "report" / "labels.csv").read_text().splitlines()[1:]
    assert [line.split(",")[3] for line in rows] == plan["labels"]
    assert float(rows[0].split(",")[9]) == pytest.approx(100 * test["f1_by_label"]["all"])
