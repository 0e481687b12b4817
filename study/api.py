"""The Python API: describe a study, run it, read its results, take its model. The command line calls the same functions.

from study import Study

run = Study.load("my-reviews.yaml").run()
run.best.predict(["A film to remember."]).labels

Imports no heavy package: torch, Ray and pandas are imported by the methods that need them.
"""

from __future__ import annotations

import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.definition import study_file
from study.definition.models import Study as Definition
from study.run.lock import RunInUse
from trainables.settings.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.records import run_folder
    from study.planning.plan_text import PlannedStudy
    from study.review.chosen import ChosenFinal
    from trainables.export.load import LoadedModel, Predicted, Texts

__all__ = ["Best", "ConfigError", "NoResult", "Run", "RunInUse", "RunStopped", "Study"]
PathLike = str | os.PathLike[str]
Names = str | Sequence[str]
"""One name or several."""
ARGUMENTS = (
    *("data", "test", "validation", "text", "text-pair", "label", "encoder", "name", "delimiter", "quoting", "encoding", "set"),
    *("out", "address", "store", "accept-changed-inputs", "retry-failed", "gpu", "format", "force", "again"),
)
"""Options of the command line that are arguments here."""


warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm in a notebook: no bar of it is shown here


class RunStopped(RuntimeError):
    """Raised when the machine failed (disk, store, GPU, network), or all trials failed alike. Nothing evaluated is lost."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}\n{advice}" if advice else reason)
        self.reason, self.advice = reason, advice


class NoResult(RuntimeError):
    """Raised when a study has ended and no trial has a result; the message has the reasons."""


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """A study that is checked and ready to run."""

    definition: Definition
    """All of its fields, as in docs/study-file.md."""
    source: Path | None = None
    """The file or run folder that it was loaded from; None: plain data."""

    @classmethod
    def load(cls, source: PathLike | Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Study:
        """Load a study from a YAML file, a run folder, or a mapping with the same fields.

        `changes` are fields by path, such as `{"budget.trials": 40}`. Relative paths in a file are relative to the file, in a
        mapping to the working directory. Raises ConfigError with all faults.
        """
        with _arguments_named():
            overrides = _overrides(changes)
            if isinstance(source, Mapping):
                return cls(study_file.load_study(json.loads(_json("source", source)), overrides))
            path = Path(source)
            return cls(study_file.load_study_at(path, overrides), path)

    @classmethod
    def from_data(
        cls,
        data: PathLike,
        *,
        test: PathLike | None = None,
        validation: PathLike | None = None,
        text: Names = (),
        text_pair: Names = (),
        label: Names = (),
        encoder: PathLike | None = None,
        name: str | None = None,
        delimiter: str | None = None,
        quoting: str | None = None,
        encoding: str | None = None,
        changes: Mapping[str, Any] | None = None,
        file: PathLike | None = None,
        store: str | None = None,
        say: Callable[[str], None] = print,
    ) -> Study:
        """Look at your data, propose a study for it and for this machine, and write it as a commented YAML file.

        `data` is a table (csv, tsv, jsonl, parquet), a URL, a folder saved by `datasets`, or OWNER/NAME on the hub. The arguments
        are those of `study init`. The file is `file`, by default NAME.yaml; if it was written before from the same arguments, it is
        used as it is now. What was understood is passed to `say`. Raises ConfigError with all faults; then nothing is written.
        """
        from study.cluster.processes import levels_kept
        from study.own_data import begin, given

        if not isinstance(data, str | os.PathLike):
            raise ConfigError([f"`data`: a {type(data).__name__} given; write the texts to a file, and give its path"])
        with _arguments_named(), levels_kept():
            options = given.Given(
                data=(os.fspath(data),),
                test=_path(test),
                validation=_path(validation),
                text=_names(text),
                text_pair=_names(text_pair),
                label=_names(label),
                encoder=_path(encoder),
                name=name,
                dialect={"delimiter": delimiter, "quoting": quoting, "encoding": encoding},
            )
            path, overrides = Path(file or f"{given.study_name(options)}.yaml"), _overrides(changes)
            begin.begin_once(options, overrides, path, store, say, "study init")
            return cls(study_file.load_study(path, overrides), path)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.definition.name

    def __repr__(self) -> str:
        """Name the study and its source."""
        return f"Study({self.name!r}, from {'plain data' if self.source is None else self.source})"

    def plan(self, *, gpu: str | None = None, store: str | None = None) -> PlannedStudy:
        """Plan stages, cost, memory and disk, for this machine or for a GPU such as "H100". Computes nothing.

        Printed, it is the text of `study plan`; `.plan` has the numbers. Raises ConfigError as a run would.
        """
        from study.cluster.processes import levels_kept
        from study.planning import plan_text
        from trainables.store.store import Store

        with _arguments_named(), levels_kept():
            artifacts = Store(store or self.definition.store or Store.default().url)
            planned = plan_text.look(self.definition, artifacts, gpu)
            lacks = plan_text.unfit([self.definition]) if gpu is None else []
            return replace(planned, notices=[*planned.notices, *lacks])

    def run(
        self,
        out: PathLike | None = None,
        *,
        address: str | None = None,
        store: str | None = None,
        accept_changed_inputs: bool = False,
        retry_failed: bool = False,
        progress: bool = True,
    ) -> Run:
        """Run the study to its end, or resume it; a finished one is not run again. Returns its results.

        The arguments are those of `study run`: `out` is the run folder, by default runs/NAME, `address` a Ray cluster to join.
        Without `progress` nothing is printed. Afterwards Ray, environment, signal handlers and streams are as before.

        Raises ConfigError with all faults before anything is computed, RunInUse if another process runs it, RunStopped if the
        machine failed, NoResult if no trial has a result, and KeyboardInterrupt if it is interrupted. To resume, call it again.
        """
        from study.cluster import variables
        from study.cluster.machine_faults import StudyStopped
        from study.cluster.processes import levels_kept
        from study.run import launch

        if threading.current_thread() is not threading.main_thread():
            raise ConfigError(["run() handles interrupts, which Python allows in the main thread of a process only: call it there"])
        folder = study_file.run_dir_for(self.definition, None if out is None else Path(out), self.source)
        with _arguments_named(), variables.as_before(), levels_kept(), nullcontext() if progress else _silence():
            try:
                outcome = launch.run(
                    *(self.definition, folder, store, address, None, accept_changed_inputs, retry_failed),
                    process_goes_on=True,
                )
            except KeyboardInterrupt as interrupt:
                print(f"{str(interrupt) or 'interrupted'}; nothing that was evaluated is lost. Run it again to resume.", flush=True)
                raise
            except StudyStopped as end:
                raise RunStopped(end.reason, end.advice) from None
            if not outcome.has_result:
                raise NoResult(outcome.text)
            print(outcome.text, flush=True)
        return Run(folder.absolute(), store)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """The results of a study, as recorded when they are first read from its run folder."""

    folder: Path
    store: str | None = None
    """Address of the store that was given; None: the study's."""

    @classmethod
    def open(cls, folder: PathLike, *, store: str | None = None) -> Run:
        """Open a run folder, also of a study that is still running. Raises ConfigError if it is none."""
        run = cls(Path(folder).absolute(), store)
        try:
            _ = run._records
        except (OSError, ValueError) as error:
            raise ConfigError([str(error)]) from None
        return run

    @cached_property
    def _records(self) -> run_folder.Run:
        from analysis.records.run_folder import load

        return load(self.folder)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._records.name

    @property
    def state(self) -> str:
        """The state: finished, interrupted, stopped, or unfinished."""
        return self._records.state

    @property
    def notices(self) -> list[str]:
        """What the user should know about the results: notices of the study, and damaged lines of its records."""
        return [*dict.fromkeys(str(row.get("text")) for row in self._records.of("notice")), *self._records.problems]

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, those of the search and the finals, with the columns of `report/trials.csv`."""
        from analysis.tables import frames

        return frames.trials(self._records)

    @property
    def finals(self) -> pd.DataFrame:
        """The rows of `trials` that rerun the best settings over seeds after the search."""
        trials = self.trials
        return trials[trials["phase"] == "final"].reset_index(drop=True)

    @property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation, those of the bag of words first, with the columns of `report/results.csv`."""
        from analysis.tables import frames

        return frames.evaluations(self._records)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """{name: figure of matplotlib} of all that the report draws, such as `curves`, `history` and `importance`.

        A notebook shows one that is the last line of a cell. They are unknown to pyplot, so that none is shown twice or stays open.
        """
        from analysis.pages import study_page

        return {figure.name: figure.canvas() for figure in study_page.figures(self._records)}

    @cached_property
    def best(self) -> Best:
        """The model of the study: the chosen setting with the seed that is best on validation.

        Raises ConfigError while not all finals have ended.
        """
        from study.review.chosen import choose

        with _arguments_named():
            return Best(self, choose(self.folder))

    def report(self, out: PathLike | None = None, formats: Names | None = None) -> Path:
        """Write tables, figures and the page again, by default into `report/` of the run folder. Returns the path of the page.

        `formats` are among html, md, tex, csv, json, pdf; default: all except pdf. Raises ConfigError if they cannot be written.
        """
        from study.review import report

        names = formats if formats is None or isinstance(formats, str) else ",".join(formats)
        with _arguments_named():
            return report.write([self.folder], None if out is None else Path(out), names).page

    def __repr__(self) -> str:
        """Name the folder and what is in it."""
        records = self._records
        return f"Run({str(self.folder)!r}: {self.state}, {len(records.search)} trials, {len(records.finals)} finals)"


@dataclass(frozen=True, eq=False, repr=False)
class Best:
    """The final of a run whose weights are its model."""

    run: Run
    chosen: ChosenFinal
    """The trial with its setting, and how it was chosen."""

    @property
    def trial(self) -> str:
        """Name of the final, such as f00."""
        return self.chosen.trial.name

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.chosen.trial.seed or 0

    @property
    def params(self) -> dict[str, Any]:
        """{path in the search space: value} of its setting."""
        return dict(self.chosen.trial.params)

    @cached_property
    def model(self) -> LoadedModel:
        """The model in memory, on a GPU if there is one; loaded from the store once.

        Raises ConfigError if its weights are gone, or if the encoder's files have changed since the run.
        """
        from study.review.export import chosen_model

        with _arguments_named(), chosen_model(self.run.folder, self.run.store) as (model, _):
            return model

    def predict(self, texts: Texts, *, raw: bool = False) -> Predicted:
        """Predict texts, or pairs of texts: `.labels`, and calibrated `.probabilities` [texts, classes].

        `raw`: probabilities without the temperature that calibrates them. Raises ConfigError for other texts than the model was
        trained on, and as `model`.
        """
        return self.model.predict(texts, raw=raw)

    def export(self, folder: PathLike | None = None, *, force: bool = False, again: bool = False) -> Path:
        """Write the model as a folder, by default `model` in the run folder. Returns the folder.

        `force` replaces an earlier export; `again` trains it once more if its weights are gone. Raises ConfigError as `model`, and
        if the folder cannot be written.
        """
        from study.review.export import export

        to = None if folder is None else Path(folder)
        with _arguments_named():
            return export(self.run.folder, None, to, self.run.store, force=force, again=again).folder

    def __repr__(self) -> str:
        """Say how it was chosen, and its scores."""
        return f"Best({self.trial}, {self.chosen.why}: {self.chosen.score})"


# Arguments ------------------------------------------------------------------------------------------------------------------------


def _overrides(changes: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Changes as the options `--set PATH=VALUE` of the command line. Raises ConfigError for a value that is no plain data."""
    return tuple(f"{path}={_json(str(path), value)}" for path, value in (changes or {}).items())


def _json(name: str, value: Any) -> str:
    """A value as JSON, paths as text. Raises ConfigError if it is no plain data."""

    def plain(other: Any) -> Any:
        return other.item() if hasattr(other, "item") else os.fspath(other)  # a number of numpy; a path

    try:
        return json.dumps(value, ensure_ascii=False, default=plain)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{name}: {value!r:.80} given; it should be numbers, text, lists and mappings only ({error})"]) from None


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Name in every fault the arguments instead of the options of the command line."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(map(_in_arguments, error.faults)) from None


def _in_arguments(fault: str) -> str:
    """A fault with `--text-pair` as `text_pair`; commands to type stay."""
    said, command, typed = fault.partition("study init --")

    def argument(option: re.Match[str]) -> str:
        name = option[1]
        return f"`{'changes' if name == 'set' else name.replace('-', '_')}`" if name in ARGUMENTS else option[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", argument, said) + command + typed


@contextmanager
def _silence() -> Iterator[None]:
    """Within the block nothing that is printed is shown."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _path(value: PathLike | None) -> str | None:
    return None if value is None else os.fspath(value)


def _names(value: Names) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
