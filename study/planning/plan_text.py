"""The plan of a study as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.definition.models import Study
from study.planning import estimate
from study.planning.check import check

if TYPE_CHECKING:
    from trainables.store.store import Store
from analysis.text.numbers import count_text, fit, pair, time_text
from study.planning.plan import Plan, plan

# On the terminal -----------------------------------------------------------------------------------------------------------------


def show(study: Study, store: Store) -> str:
    """The plan of a study as text, with what its data and its space make one note. Raises ConfigError as a run would."""
    from trainables.stages.inputs import Reader

    reader = Reader()
    notices = check(study, reader=reader)
    notes = [line for notice in notices for line in pair("note", notice)]
    return "\n".join([render(plan(study, store, reader)), *notes])


def render(made: Plan) -> str:
    """A plan for the terminal, at most 80 columns wide."""
    lines = [
        f"{made.study}: {made.trials} trials of {made.recipe} on {made.task}, then {made.finals} more over seeds",
        "",
        *_tree(made),
        "",
        *pair("to train on", f"{count_text(made.tokens_shared)} tokens; without sharing {count_text(made.tokens_unshared)}"),
        *pair(
            "still missing",
            f"at most {count_text(made.tokens_missing)} tokens, {count_text(made.least_tokens)} with sharp early stopping",
        ),
        *pair("time", f"about {time_text(made.seconds[0])} to {time_text(made.seconds[1])} at {made.tokens_per_s:,.0f} tokens/s"),
        *pair("rate from", made.rate_from),
        *pair("disk", f"{estimate.size_text(made.disk_bytes)} in the store: {made.disk_from}"),
    ]
    return "\n".join(lines)


def _tree(made: Plan) -> Iterator[str]:
    """The stage tree, a line per stage: what starts from it is indented below it."""
    yield made.encoder[:78]
    ids = {stage.stage_id for stage in made.stages}

    def below(parent: str | None, indent: str) -> Iterator[str]:
        children = [s for s in made.stages if (s.parent_id if s.parent_id in ids else None) == parent]
        for stage in children:
            state = "cached " if stage.cached else "missing"
            yield fit(f"{indent}├─ {stage.label}", f"{count_text(stage.tokens):>7} tokens  {state}")
            yield from below(stage.stage_id, indent + "│  ")

    yield from below(None, "")
    yield f"└─ fine-tuning on {made.task}: {made.trials} trials, {made.finals} finals, each from one of these"[:80]
