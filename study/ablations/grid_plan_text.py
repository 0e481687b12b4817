"""Format the plan of ablations as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from analysis.text.numbers import count_text, fit, pair, time_text
from study.ablations import gpu_costs
from study.ablations.gpu_costs import Gpu
from study.ablations.grid import AblationGrid
from study.planning import estimate
from study.planning.plan import with_precision
from trainables.settings import corpus_names
from trainables.settings.encoder import Encoder
from trainables.settings.pretraining import Pretrain
from trainables.settings.stages import Finetune, Marks, Multitask

if TYPE_CHECKING:
    from trainables.stages.inputs import Reader
    from trainables.store.store import Store
from study.ablations.grid_plan import GridPlan, Step, plan

# On the terminal -----------------------------------------------------------------------------------------------------------------


def show(grid: AblationGrid, store: Store, gpu: str | None = None, *others: AblationGrid) -> str:
    """Plan an ablation, or several in one store, and format the plan for a terminal, 80 columns wide.

    Raises ConfigError for a GPU that is not in the table.
    """
    named = gpu_costs.gpu_named(gpu) if gpu else None
    lines = [
        f"{ablation.name}: statistics of {', '.join(ablation.ablation.targets)}; nothing is trained"
        for ablation in (grid, *others)
        if ablation.ablation.statistics
    ]
    grids = [ablation for ablation in (grid, *others) if not ablation.ablation.statistics]
    if not grids:
        return "\n".join(lines)
    plan_ = plan(grids[0], store, *grids[1:])
    lines += [*_grids(grids, plan_), "", *_tree(plan_), "", *_shared(plan_)]
    if plan_.tokens_missing is not None:
        lines += pair("still missing", f"{count_text(plan_.tokens_missing)} tokens; {len(plan_.cached):,} stages are in the store")
    lines += pair("to read", f"{count_text(plan_.read)} tokens of validation and test texts")
    lines += _gpu_lines(plan_, gpu.upper(), named) if gpu and named else _here_lines(grids[0], plan_, store)
    for text in _assumptions(plan_):
        lines += pair("assumed", text)
    for source in plan_.sources:
        lines += pair("data", f"not on this machine; {source}")
    return "\n".join(lines)


def _grids(grids: Sequence[AblationGrid], plan_: GridPlan) -> Iterator[str]:
    """The planned ablations; for several also a table of the tokens to train on."""
    for grid, share in zip(grids, plan_.shares, strict=True):
        count = f"{len(grid.ablation.settings)} settings x {len(grid.ablation.targets)} tasks x {grid.ablation.seeds} seeds"
        yield f"{grid.name}: {count}, {share.cells:,} cells in {len(grid.parts)} studies"
    if len(grids) == 1:
        return
    yield ""
    yield f"{'tokens':<24}{'each cell alone':>18}{'stages once':>18}{'new here':>18}"
    for share in plan_.shares:
        values = (share.tokens_unshared, share.tokens_shared, share.tokens_added)
        yield f"{share.name[:23]:<24}" + "".join(f"{count_text(value):>18}" for value in values)


def _shared(plan_: GridPlan) -> Iterator[str]:
    """Tokens to train on, and the savings of sharing, within ablations and between them."""
    less = plan_.tokens_unshared - plan_.tokens_shared
    text = f"{count_text(plan_.tokens_shared)} tokens; without sharing {count_text(plan_.tokens_unshared)}"
    text += f": sharing saves {less / plan_.tokens_unshared:.0%}" + (f", {count_text(less)} tokens" if less else "")
    if len(plan_.shares) > 1:
        between = sum(share.tokens_shared - share.tokens_added for share in plan_.shares)
        text += f" ({count_text(less - between)} within ablations, {count_text(between)} between them)"
    yield from pair("to train on", text)


def _assumptions(plan_: GridPlan) -> Iterator[str]:
    """The assumptions behind the numbers."""
    from trainables.stages.inputs import PIECES_PER_WORD

    if plan_.sources:
        yield "tokens: every text has its set's mean length, cut at max_length, with special tokens"
    else:
        yield (
            "tokens: as the encoder's tokenizer divides a sample of the texts"
            f" ({PIECES_PER_WORD} for a word where it is not here), every text cut at max_length, with special tokens"
        )
    yield (
        f"time: {gpu_costs.FLOPS_PER_WEIGHT} FLOPs for each weight of the blocks in use and token to train on, 2 for one to read,"
        " and for predicted pieces the vocabulary's matrix; a frozen encoder runs once over each text; attention's own"
        " products, other heads, held-out texts of further pre-training and start-up are left out, and partly frozen"
        " encoders count as whole"
    )


def estimate_text(grid: AblationGrid, store: Store, reader: Reader, here: bool = True) -> str:
    """Return a line for the start of a run: the work left and its time on this machine. Raises ConfigError if data are missing."""
    plan_ = plan(grid, store, reader=reader)
    left = plan_.tokens_shared if plan_.tokens_missing is None else plan_.tokens_missing
    text = f"to train on: {count_text(left)} of {count_text(plan_.tokens_shared)} tokens"
    text += f" ({count_text(plan_.tokens_unshared)} without sharing)" if plan_.tokens_unshared > plan_.tokens_shared else ""
    if not here:
        return text
    rate, source = _rate_here(grid, store)
    return f"{text}; about {time_text(plan_.flops_missing / rate)} here, by {source}"


def _tree(plan_: GridPlan) -> Iterator[str]:
    """The stage tree, a line per run; stages that start from it are indented below it."""
    shared = [step for step in plan_.steps if not isinstance(step.stage, Finetune)]
    for encoder in dict.fromkeys(step.encoder for step in plan_.steps):
        yield estimate.encoder_name(encoder)[:80]
        yield from _below(plan_, shared, encoder, None, "")


def _below(plan_: GridPlan, shared: list[Step], encoder: Encoder, parents: frozenset[str] | None, indent: str) -> Iterator[str]:
    """Lines of the stages that start from these milestones, or from the encoder itself."""

    def starts_here(step: Step) -> bool:
        return step.encoder == encoder and (step.parent_id is None if parents is None else step.parent_id in parents)

    for run in dict.fromkeys(step.run for step in shared if starts_here(step)):
        milestones = [step for step in shared if step.run == run]
        last = max(milestones, key=lambda step: step.steps)
        state = "cached " if all(step.stage_id in plan_.cached for step in milestones) else "missing"
        where = f"{len(milestones)} milestones to " if len(milestones) > 1 else ""
        label = f"{last.stage.name} on {_corpus(last)}, {where}{last.steps:,} steps"
        yield fit(f"{indent}├─ {label}", f"{count_text(last.tokens):>7} tokens  {state}")
        yield from _below(plan_, shared, encoder, frozenset(step.stage_id for step in milestones), indent + "│  ")
    tuned = [step for step in plan_.steps if isinstance(step.stage, Finetune) and starts_here(step)]
    for task in dict.fromkeys(step.task for step in tuned):
        cells = [step for step in tuned if step.task == task]
        done = sum(step.stage_id in plan_.cached for step in cells)
        tokens = count_text(sum(step.tokens for step in cells))
        yield fit(f"{indent}├─ fine-tuning on {task}: {len(cells)} cells", f"{tokens:>7} tokens  {done} cached")


def _corpus(step: Step) -> str:
    """Names of the tasks and files that a shared stage reads."""
    if isinstance(step.stage, Multitask):
        return ", ".join(step.stage.tasks) or "all tasks"
    if isinstance(step.stage, Marks):
        return step.task
    assert isinstance(step.stage, Pretrain)
    entries = [step.task if entry == corpus_names.WITHIN_TASK else entry for entry in step.stage.corpus or (step.task,)]
    return ", ".join(map(corpus_names.short, entries))


def _rate_here(grid: AblationGrid, store: Store) -> tuple[float, str]:
    """(FLOP/s of training on this machine, the source of this rate)."""
    study = with_precision(grid.parts[0].study)
    encoder = gpu_costs.measurable(study.encoder)
    rate, source = estimate.rate(study.model_copy(update={"encoder": encoder}), store, ())
    return rate * gpu_costs.flops_per_piece(encoder), source


def _here_lines(grid: AblationGrid, plan_: GridPlan, store: Store) -> list[str]:
    """Lines on the time on this machine."""
    rate, source = _rate_here(grid, store)
    text = f"about {time_text(plan_.flops / rate)} on this machine"
    text += f"; of what is missing {time_text(plan_.flops_missing / rate)}" if plan_.cached else ""
    return [*pair("time", text), *pair("rate from", source)]


def _gpu_lines(plan_: GridPlan, name: str, gpu: Gpu) -> list[str]:
    seconds = plan_.flops / (gpu.flops * gpu_costs.UTILISATION)
    peak = f"{gpu_costs.UTILISATION:.0%} (assumed) of {gpu.flops / 1e12:,.0f} bf16 TFLOP/s ({gpu.source})"
    lines = pair("time", f"about {gpu_text(seconds, name)}: {plan_.flops / 1e18:,.3g} EFLOP at {peak}")
    shapes = {(s.encoder, s.stage.kind, s.stage.batch_size, s.stage.max_length): s for s in plan_.steps}.values()
    size, step = max(((_memory(step), step) for step in shapes), key=lambda pair: pair[0])
    batch, fits = step.stage.batch_size, gpu_costs.micro_batch(gpu_costs.measurable(step.encoder), step.stage, gpu.memory_gb * 1e9)
    text = f"{estimate.size_text(size)} at most, in {step.stage.name} with {batch} x {step.stage.max_length} pieces"
    if not fits:
        text += f"; not even one sequence fits into {gpu.memory_gb} GB"
    elif fits < batch:
        text += f"; {gpu.memory_gb} GB hold {fits} at a time: the batch is split automatically, which does not change the results"
    text += f"; {gpu_costs.STATE_BYTES} bytes a weight, {gpu_costs.ACTIVATION_BYTES} a token, layer and unit of width"
    return lines + pair("memory", text)


def gpu_text(seconds: float, name: str) -> str:
    """Format seconds on a GPU: `12,345 GPU-hours of one H100 (514 days)`."""
    hours = seconds / 3600
    text = f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
    also = f" ({hours / 24:,.0f} days)" if hours >= 48 else f" ({seconds / 60:.0f} min)" if hours < 1.5 else ""
    return f"{text} GPU-hours of one {name}{also}"


def _memory(step: Step) -> float:
    return gpu_costs.memory_bytes(gpu_costs.measurable(step.encoder), step.stage, step.stage.batch_size)
