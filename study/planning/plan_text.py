"""The plan of a study as text of 80 columns, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from study.cluster.machine import check_resources
from study.cluster.ray_session import machine_for
from study.definition.models import Study
from study.planning import estimate, memory
from study.planning.check import check
from study.planning.gpu_table import gpu_named

if TYPE_CHECKING:
    from study.planning.memory import Fit, Place
    from trainables.store.store import Store
from analysis.text.numbers import count_text, fit, pair, time_text
from study.planning.plan import Plan, plan
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import PIECES_PER_WORD

# On the terminal -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class PlannedStudy:
    """The plan of a study for this machine or a GPU of the table; as text, what `study plan` prints."""

    plan: Plan
    """Stages, tokens, seconds, bytes."""
    place: Place | None
    """The memory that is planned for; None where no GPU answers."""
    fits: list[Fit]
    """How each kind of stage fits into it."""
    notices: list[str]
    """Notices on the data, the space and the machine."""
    computes_on: str | None
    """What trials compute on here; None for a GPU of the table, and where the run would be refused."""

    def __str__(self) -> str:
        """The text of 80 columns."""
        notes = [line for notice in self.notices for line in pair("note", notice)]
        where = pair("computes on", self.computes_on) if self.computes_on else []
        return "\n".join([render(self.plan), *where, *_memory(self.place, self.fits), *notes])

    __repr__ = __str__  # the last line of a cell shows it


def show(study: Study, store: Store, gpu: str | None = None, as_json: bool = False) -> str:
    """The plan of a study as text or JSON. Raises ConfigError as `look`."""
    planned = look(study, store, gpu)
    return _json(planned) if as_json else str(planned)


def look(study: Study, store: Store, gpu: str | None = None) -> PlannedStudy:
    """Plan a study, with the notices of its data and its space, for this machine or a GPU of the table.

    Raises ConfigError as a run would, and for a GPU that is not in the table.
    """
    from trainables.stages.inputs import Reader

    reader, named, machine = Reader(), gpu_named(gpu) if gpu else None, machine_for(study.resources)
    notices = [*check(study, reader=reader), *(machine.notices if named is None else ())]
    place = memory.place_of(study, named)
    fits = memory.fits(study, place) if place is not None else []
    plan_ = plan(study, store, reader, named)
    enough = machine.places(study.resources.cpus, machine.gpus_for(study.resources)) >= study.resources.workers
    where = machine.computes_on(study.resources) if named is None and enough else None  # else a run is refused
    return PlannedStudy(plan_, place, fits, notices, where)


def unfit(studies: Iterable[Study]) -> list[str]:
    """Which resources this machine lacks, a line for each. The plan may be for another machine, so that this is not an error."""
    faults: dict[str, None] = {}
    for study in studies:
        try:
            check_resources(study.resources, machine_for(study.resources))
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    return [f"this machine would refuse the run: {fault}" for fault in faults]


def _json(planned: PlannedStudy) -> str:
    stages = [fit.as_json() for fit in planned.fits]
    memory_ = asdict(planned.place) | {"stages": stages} if planned.place is not None else None
    data = asdict(planned.plan) | {"memory": memory_, "notices": planned.notices}
    return json.dumps(data, indent=2, ensure_ascii=False)


def render(plan_: Plan) -> str:
    """A plan for the terminal, at most 80 columns wide."""
    where = f" of one {plan_.gpu}" if plan_.gpu else ""
    least, most = map(time_text, plan_.seconds)
    lines = [
        f"{plan_.study}: {plan_.trials} trials of {plan_.recipe} on {plan_.task}, then {plan_.finals} more over seeds",
        "",
        *_tree(plan_),
        "",
        *pair("to train on", f"{count_text(plan_.tokens_shared)} tokens; without sharing {count_text(plan_.tokens_unshared)}"),
        *pair("tokens by", _tokens_by(plan_)),
        *pair(
            "still missing",
            f"at most {count_text(plan_.tokens_missing)} tokens, {count_text(plan_.least_tokens)} with sharp early stopping",
        ),
        *pair("time", f"about {least} to {most}{where} at {plan_.tokens_per_s:,.0f} tokens/s"),
        *pair("rate from", plan_.rate_from),
        *pair("disk", f"{estimate.size_text(plan_.disk_bytes)} in the store: {plan_.disk_from}"),
    ]
    return "\n".join(lines)


def _tokens_by(plan_: Plan) -> str:
    """How tokens were estimated."""
    if plan_.pieces_per_word is None:
        return f"{PIECES_PER_WORD} pieces a word, as in English reviews: the encoder's vocabulary is not there yet"
    return f"the encoder's tokenizer on samples of the texts: {plan_.pieces_per_word:.2f} pieces a word of {plan_.task}"


def _memory(place: Place | None, fits: list[Fit]) -> Iterator[str]:
    """How the stages fit into memory with the settings that need most."""
    if place is None:
        yield from pair("memory", "unknown: no GPU answers here; --gpu NAME plans for another")
        return
    many = f", {place.side_by_side} processes side by side" if place.side_by_side > 1 else ""
    yield from pair("memory", f"{estimate.size_text(place.bytes)} of {place.name} for a process{many}; by an estimate")
    for each in fits:
        yield from pair("", each.text(place))
    if not all(each.texts for each in fits):
        yield from pair("", f"-> {memory.advice(place)}")


def _tree(plan_: Plan) -> Iterator[str]:
    """The stage tree, a line per stage; stages that start from it are indented below it."""
    yield plan_.encoder[:78]
    ids = {stage.stage_id for stage in plan_.stages}

    def below(parent: str | None, indent: str) -> Iterator[str]:
        children = [s for s in plan_.stages if (s.parent_id if s.parent_id in ids else None) == parent]
        for stage in children:
            state = "cached " if stage.cached else "missing"
            yield fit(f"{indent}├─ {stage.label}", f"{count_text(stage.tokens):>7} tokens  {state}")
            yield from below(stage.stage_id, indent + "│  ")

    yield from below(None, "")
    yield f"└─ fine-tuning on {plan_.task}: {plan_.trials} trials, {plan_.finals} finals, each from one of these"[:80]
