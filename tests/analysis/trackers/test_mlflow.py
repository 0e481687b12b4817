"""MLflow: read back through its client what was sent to a database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports
from analysis.trackers.send import send
from analysis.trackers.tracked import read
from tests.analysis.made_records import make

pytest.importorskip("mlflow", reason="pip install 'finetune-study[mlflow]'")
SMALL = {"trials": 4, "seeds": 2, "diverged": 1, "failed": 2}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[int]]]:
    """(a finished run, the database, numbers of changed runs): sent in the middle of its search, after its end, and once more."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MLflow puts artifacts into the working directory
        run = make(folder / "run", part="search", **SMALL)
        changed = [send(run, "mlflow", store)]
        (run / "records.jsonl").unlink()
        make(run, **SMALL)
        reports.write([run], None, ["html", "json", "md", "csv"])
        changed += [send(run, "mlflow", store), send(run, "mlflow", store)]
        yield run, store, changed


def all_runs(store: str) -> dict[str, Any]:
    """{name: run} of everything in the database."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("finetune-study").experiment_id], max_results=1000)
    assert len({run.info.run_name for run in found}) == len(found), "a run is there twice"
    return {run.info.run_name: run for run in found}


def test_runs_params_tags_and_status(sent: tuple[Path, str, list[int]]) -> None:
    run, store, changed = sent
    tracked, there = read(run), all_runs(store)
    assert changed[0] > 0 < changed[1]
    assert changed[2] == 0, "sent twice"
    assert set(there) == {"quickstart", *(each.name for each in tracked.runs)}
    parent = there["quickstart"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["chosen/test/error_rate_percent"] == tracked.study.results["chosen/test/error_rate_percent"]
    for each in tracked.runs:
        other = there[each.name]
        assert other.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert other.data.params == {name: str(value) for name, value in each.params.items()}
        assert each.tags.items() <= other.data.tags.items()
        assert (other.info.start_time, other.info.end_time) == (round(1000 * each.began_s), round(1000 * each.ended_s))
    assert {there[name].info.status for name in ("t001", "t002")} == {"FAILED"}
    assert there["f00"].info.status == "FINISHED"
    assert "KILLED" in {there[each.name].info.status for each in tracked.runs if each.tags["state"] == "stopped"}
    assert there["f00"].data.tags["phase"] == "final"


def test_every_point_once_with_step_and_time(sent: tuple[Path, str, list[int]]) -> None:
    from mlflow.tracking import MlflowClient

    run, store, _ = sent
    client, there = MlflowClient(store), all_runs(store)
    for each in read(run).runs:
        for name in {name for point in each.points for name in point.values}:
            history = client.get_metric_history(there[each.name].info.run_id, name)
            expected = [(p.step, round(1000 * p.time_s), p.values[name]) for p in each.points if name in p.values]
            assert sorted((metric.step, metric.timestamp, metric.value) for metric in history) == expected


def test_report_and_study_file_are_artifacts(sent: tuple[Path, str, list[int]]) -> None:
    from mlflow.tracking import MlflowClient

    run, store, _ = sent
    client, parent = MlflowClient(store), all_runs(store)["quickstart"].info.run_id
    names = {each.path for folder in ("", "report") for each in client.list_artifacts(parent, folder)}
    assert {"study.yaml", "report/report.html", "report/report.json", "report/trials.csv"} <= names
    assert Path(client.download_artifacts(parent, "study.yaml")).read_bytes() == (run / "study.yaml").read_bytes()
