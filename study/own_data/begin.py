"""From options on own data to a study file: read, choose columns, check, measure, propose, write."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.text.numbers import pair, time_text
from analysis.text.write_whole import write_whole
from study.definition.models import Study
from study.definition.paths import outward
from study.definition.study_file import load_study, overridden
from study.own_data import commented, findings, proposal
from study.own_data.columns import chosen, columns_of
from study.own_data.given import Given, beside, source_fields, study_name
from study.own_data.tables import in_options, read_table, refusals
from study.planning.check import check, positions
from study.survey.dataset_statistics import ruler
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.stages.inputs import Reader
from trainables.store.store import Store

WRITTEN_FROM = "written from: "
"""Begins the line of a study file that names the options it was written from."""
SHORT_TEXTS, SHORT_LENGTH = 2000, 64
"""Training texts and pieces of a shorter study, as an advice."""
LARGE_BYTES = 5_000_000
"""A larger file is named before it is read: that takes many seconds."""
UNLIMITED = 512
"""Longest sequence proposed for an encoder without a limit."""


def begin(
    given: Given, overrides: Sequence[str], path: Path, store: str | None, say: Callable[[str], None], command: str
) -> Reader:
    """Understand the data, say so, and write the study file. Returns what has read the data.

    `command` is the command of the user, for messages. Raises ConfigError with all faults, and writes nothing then.
    """
    folder, reader = path.absolute().parent, Reader()
    for file in (*given.data, given.test, given.validation):
        if file and os.path.isfile(file) and os.path.getsize(file) > LARGE_BYTES:
            say(f"looking at {file} ({os.path.getsize(file) / 1e6:,.0f} MB): columns, lengths, copies")
    base, reasons = _base(given, overrides, folder, command)
    name = base["name"]
    study = load_study(base, (), folder)
    try:
        data = reader.task(name, study.tasks[name])
    except ConfigError as error:
        raise ConfigError(in_options(fault, name) for fault in error.faults) from None
    limit = positions(study.encoder) or UNLIMITED
    found = findings.find(data, ruler(study.encoder), limit)
    say(f"{name}: {', '.join(given.data)}\n{findings.show(found, [*data.notices, *_others(given)])}\n")
    metric, why = proposal.balanced_metric(found)
    base["tasks"][name] |= metric
    artifacts = Store(store or Store.default().url)
    proposed = proposal.propose(base, reasons | why, found, overrides, folder, artifacts, reader)
    further = [notice for notice in check(proposed.study, reader=reader) if notice not in data.notices]
    say("\n".join([_proposed(proposed), *(line for text in further for line in pair("note", in_options(text, name)))]))
    head = [
        f"A study of {data.name}: change what you like; docs/study-file.md lists every field.",
        f"{WRITTEN_FROM}{given.options}",
        f"estimated here: {_time(proposed)}",
        *_others(given),
        *_alternatives(proposed),
    ]
    try:
        write_whole(path, commented.render(proposed.data, proposed.reasons, head))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror or error}; give a place that can be"]) from None
    load_study(path)  # what was written can be read
    return reader


def _base(given: Given, overrides: Sequence[str], folder: Path, command: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(`name`, `tasks`, `task` and `encoder` of the study file with the overrides of tasks, {path: reason})."""
    name, source = study_name(given), source_fields(given)
    encoder, why = proposal.encoder_for(given.encoder)
    table, source = read_table(given, source)
    columns = columns_of(table)
    task = {**_portable(source, folder), **{key: value for key, value in given.dialect.items() if value is not None}}
    task |= chosen(given, columns, command)
    reasons = {"encoder": why}
    if "test_share" in task:
        reasons[f"tasks.{name}.test_share"] = "no test split was given: so many of the texts are kept for the test"
    if table.num_rows < proposal.FEW_ROWS and not {"validation", "validation_split"} & set(task):
        task["validation_share"] = 0.2
        reasons[f"tasks.{name}.validation_share"] = "of the rest; a tenth would be few to choose settings by"
    base: dict[str, Any] = {"name": name, "tasks": {name: task}, "task": name, "encoder": _plain(encoder)}
    base = overridden(base, [text for text in overrides if text.startswith(("tasks.", "encoder"))])
    checked = validate(Task, base["tasks"][name], f"tasks.{name}")
    if faults := [*refusals(columns, checked)]:
        raise ConfigError(faults)
    return base, reasons


def _plain(encoder: Encoder) -> dict[str, Any]:
    """The fields of an encoder that are set; a package before the folder in it."""
    return dict(sorted(encoder.model_dump(mode="json", exclude_defaults=True).items(), key=lambda item: item[0] != "package"))


def _portable(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The sources with local paths as written in a file of this folder."""

    def written(path: str) -> str:
        return path if "://" in path else outward(os.path.abspath(os.path.expanduser(path)), folder)

    paths = ("train", "validation", "test", "folder")
    return {key: written(value) if key in paths else value for key, value in source.items()}


# What is said ---------------------------------------------------------------------------------------------------------------------


def _proposed(proposed: proposal.Proposal) -> str:
    study = proposed.study
    size = f"{proposed.plan.trials} trials of up to {study.max_epochs()} epochs"
    lines = [
        *pair("encoder", f"{proposed.plan.encoder} ({proposed.reasons.get('encoder', '')})"),
        *pair("search", f"{size} over {_names(study)}, ranked by {study.metric.label}"),
        *pair("sequences", f"up to {_max_length(study)} pieces"),
        *pair("then", f"{proposed.plan.finals} more runs over seeds, and one test"),
        *pair("time", _time(proposed)),
    ]
    return "\n".join([*lines, *(line for text in _alternatives(proposed) for line in pair("note", text))])


def _max_length(study: Study) -> int:
    stage = study.recipe[-1]
    assert isinstance(stage, Finetune)
    return stage.max_length


def _names(study: Study) -> str:
    return ", ".join(path.partition(".")[2] for path in study.space)


def _time(proposed: proposal.Proposal) -> str:
    least, most = proposed.plan.seconds
    rate = f"{proposed.plan.tokens_per_s:,.0f} tokens/s, from {proposed.plan.rate_from}"
    span = dict.fromkeys(map(time_text, (least, most)))
    return f"about {' to '.join(span)} at {rate}"


def _alternatives(proposed: proposal.Proposal) -> list[str]:
    """What makes a long study shorter."""
    if not proposed.is_long:
        return []
    ways = [f"--set budget.trials={max(2, proposed.plan.trials // 2)}"]
    ways += [f"--set recipe.finetune.train_examples={SHORT_TEXTS} (fewer texts)"] * (
        proposed.plan.splits["train"] > 2 * SHORT_TEXTS
    )
    ways += [f"--set recipe.finetune.max_length={SHORT_LENGTH} (texts are cut)"] * (_max_length(proposed.study) > 2 * SHORT_LENGTH)
    return [f"shorter: {', '.join(ways)}"]


def _others(given: Given) -> list[str]:
    """Files beside the data that are not used."""
    return [f"not used: {', '.join(names)} beside the data; give --test or --validation" for names in [beside(given)] if names]


# A file that exists ---------------------------------------------------------------------------------------------------------------


def begin_once(
    given: Given, overrides: Sequence[str], path: Path, store: str | None, say: Callable[[str], None], command: str
) -> Reader | None:
    """As `begin`; None, and nothing is written, if the file was written before from the same options. It is used as it is now.

    Raises ConfigError for faults of the data, and for a file of that name that was written from other options.
    """
    if written_before(path, given):
        say(f"{path} was written from the same options; it is used as it is now")
        return None
    return begin(given, overrides, path, store, say, command)


def written_before(path: Path, given: Given) -> bool:
    """Whether the file was written from the same options. Raises ConfigError if it is another file."""
    if not path.exists():
        return False
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: exists and cannot be read: {error}"]) from None
    before = next((line.partition(WRITTEN_FROM)[2] for line in lines if line.startswith(f"# {WRITTEN_FROM}")), None)
    if before == given.options:
        return True
    what = "is no file of `study init`" if before is None else f"was written from other options: {before}"
    raise ConfigError([f"{path}: exists and {what}; give --name NAME for another file, or: study run {shlex.quote(str(path))}"])
