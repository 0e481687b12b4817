"""Write the rows of Tune's trials to the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from study.cluster.machine_faults import StudyStopped, alike, fault_of, one_line
from study.run import finals, inputs
from study.run.scribe import TrialSpec, trials

if TYPE_CHECKING:
    from study.cluster.tune_adapters import InTurn
from study.run.session import Session


def to_records(s: Session, searcher: InTurn, proposed: Mapping[str, TrialSpec]) -> Any:
    """Return the Tune callback that writes results to the records. Only the driver writes them."""
    from ray import tune

    class ToRecords(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if not trial.config.get("read_test"):
                s.scribe.starts(proposed[trial.config["trial"]])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            name = trial.config["trial"]
            for row in result["rows"]:
                wanted = (finals.test_stage(s, proposed[name]),) if row.get("split") == "test" else proposed[name].stage_ids
                inputs.check_read(s.study, s.rows, name, [row["stage_id"]], wanted)
                if trial.config.get("read_test"):
                    s.scribe.tested(proposed[name], row)
                else:
                    s.scribe.evaluated(name, row)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            result = trial.last_result or {}
            status = "stopped" if result.get("status") in (None, "running") else result["status"]
            self._ends(trial.config, status, "early stopping" if status == "stopped" else result.get("reason"), result)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            name = trial.config["trial"]
            if searcher.is_restarted(name):
                s.scribe.again(name)
            else:
                self._ends(trial.config, *_death(trial.get_pickled_error()))
            if s.placement.under_train:
                s.board.sweep.remote(list(s.scribe.running))

        def _ends(self, config: dict[str, Any], status: str, reason: str | None, result: dict[str, Any]) -> None:
            if not config.get("read_test"):
                s.scribe.starts(proposed[config["trial"]])  # its process may have died before the start
                if status != "halted":
                    s.scribe.ends(config["trial"], status, reason, result.get("details"), result.get("where"))
                    finals.prune(s)
                    _stop_if_alike(s)
                else:
                    s.scribe.reopens(trials(s.rows, config["phase"])[config["trial"]], reason, result.get("details"))
            elif status == "failed":
                s.scribe.note(f"no test scores of {config['trial']}: {reason}")
            if status == "halted":
                raise StudyStopped(str(reason), result.get("advice") or "")

        def __reduce__(self) -> tuple[Any, ...]:
            return object, ()  # Tune pickles its callbacks, and nothing reads that

    return ToRecords()


def _death(error: BaseException | None) -> tuple[str, str, dict[str, Any]]:
    """(status, reason, further fields) of a trial whose process died too often."""
    reason = "its process died again and again"
    if error is not None and (fault := fault_of(error)):
        return "halted", f"{reason}: {one_line(error)}", {"advice": fault.advice}
    return "failed", reason, {}


def _stop_if_alike(s: Session) -> None:
    """Raise StudyStopped if trials fail alike at their beginning; they then count as unfinished, not as failed."""
    same = alike(s.rows)
    for row in same:
        s.scribe.reopens(row, row["reason"])
    if same:
        names = " and ".join(row["trial"] for row in same)
        reason = f"{names} failed alike at their beginning, and no trial has been validated yet: {same[0]['reason']}"
        raise StudyStopped(reason, f"the whole traceback is in {s.run_dir / 'study.log'}")
