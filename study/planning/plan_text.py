"""The plan of a study as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.cluster.ray_session import machine_for
from study.definition.models import Study
from study.planning import estimate
from study.planning.check import check

if TYPE_CHECKING:
    from trainables.store.store import Store
from analysis.text.numbers import count_text, fit, pair, time_text
from study.planning.plan import Plan, plan
from trainables.stages.inputs import PIECES_PER_WORD

# On the terminal -----------------------------------------------------------------------------------------------------------------


def show(study: Study, store: Store) -> str:
    """The plan of a study as text, with the notices of its data and its space. Raises ConfigError as a run would."""
    from trainables.stages.inputs import Reader

    reader, machine = Reader(), machine_for(study.resources)
    notices = [*check(study, reader=reader), *machine.notices]
    notes = [line for notice in notices for line in pair("note", notice)]
    fits = machine.places(study.resources.cpus, machine.gpus_for(study.resources)) >= study.resources.workers
    where = pair("computes on", machine.computes_on(study.resources)) if fits else []  # else the run would be refused
    return "\n".join([render(plan(study, store, reader)), *where, *notes])


def render(plan_: Plan) -> str:
    """A plan for the terminal, at most 80 columns wide."""
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
        *pair(
            "time", f"about {time_text(plan_.seconds[0])} to {time_text(plan_.seconds[1])} at {plan_.tokens_per_s:,.0f} tokens/s"
        ),
        *pair("rate from", plan_.rate_from),
        *pair("disk", f"{estimate.size_text(plan_.disk_bytes)} in the store: {plan_.disk_from}"),
    ]
    return "\n".join(lines)


def _tokens_by(plan_: Plan) -> str:
    """How tokens were estimated."""
    if plan_.pieces_per_word is None:
        return f"{PIECES_PER_WORD} pieces a word, as in English reviews: the encoder's vocabulary is not there yet"
    return f"the encoder's tokenizer on samples of the texts: {plan_.pieces_per_word:.2f} pieces a word of {plan_.task}"


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
