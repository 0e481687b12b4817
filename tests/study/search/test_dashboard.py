"""optuna-dashboard opens the journal of a run."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from study.search.history import Past
from study.search.search import Search
from tests.study.search.test_search import study

pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")


class Quiet(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """Address of a dashboard over a journal, on loopback."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard import wsgi

    with make_server("127.0.0.1", 0, wsgi(JournalStorage(JournalFileBackend(str(journal)))), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def get(url: str) -> bytes:
    """Content at an address."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
        return bytes(answer.read())


def test_the_dashboard_shows_the_search(tmp_path: Path) -> None:
    made, journal = study(), tmp_path / "optuna.journal"
    params = Search(made).ask()
    assert params is not None
    attrs = {"label": "lr .001", "stage_ids": ["a", "b"], "error_rate_percent": 20.0}
    search = Search(made, [Past(0, params[1], "complete", 20.0, {1: 30.0, 2: 20.0}, attrs)], journal)
    asked = search.ask()
    assert asked is not None
    search.describe(asked[0], {"label": "lr .002"})
    search.tell(asked[0], "failed", attrs={"reason": "OSError: no space", "error_rate_percent": None})
    with dashboard(journal) as url:
        assert b"<title>Optuna Dashboard</title>" in get(f"{url}/dashboard")
        (summary,) = json.loads(get(f"{url}/api/studies"))["study_summaries"]
        shown = json.loads(get(f"{url}/api/studies/{summary['study_id']}"))
    assert (summary["study_name"], summary["directions"]) == (made.name, ["minimize"])
    assert shown["objective_names"] == ["validation error %"]
    first, second = shown["trials"]
    assert (first["state"], first["values"], second["state"]) == ("Complete", [20.0], "Fail")
    assert [each["value"] for each in first["intermediate_values"]] == [30.0, 20.0]
    there = {each["key"]: each["value"] for each in first["user_attrs"]}
    assert (there["label"], there["error_rate_percent"]) == ("lr .001", "20.0")
    assert json.loads(there["stage_ids"].replace("'", '"')) == ["a", "b"]
    assert {each["key"] for each in second["user_attrs"]} == {"setting", "label", "reason"}


def test_where_higher_is_better_the_name_says_what_is_minimised() -> None:
    from study.search.search import loss_name
    from trainables.settings.task import Task

    made = study()
    other = made.model_copy(update={"tasks": {made.task: Task(train="a.csv", metric="macro_f1")}})
    assert (loss_name(made), loss_name(other)) == ("validation error %", "100 - validation macro-F1 %")
