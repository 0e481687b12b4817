"""Settings of a whole trial: tasks, an encoder and stages.

Every setting is a field of a frozen pydantic model with meaning, unit and default, which is the paper's (Sun et al. 2019, section
5.1) if it has one. The same models validate study files, document them and define the ids of stages. Imports no torch.
"""

from __future__ import annotations

from pydantic import model_validator

from trainables.settings import corpus_names
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.errors import near
from trainables.settings.execution import Precision
from trainables.settings.stage_rules import marks_faults, pair_faults, scoring_faults
from trainables.settings.stages import Finetune, Multitask, Stage
from trainables.settings.task import Task


class Recipe(Settings):
    """The stages of one trial in order, with tasks and encoder: the input of `python -m trainables`."""

    tasks: dict[str, Task]
    """Every task that the stages name."""
    task: str
    """The target task."""
    encoder: Encoder
    """The encoder from which training starts."""
    stages: tuple[Stage, ...]
    """Stages in order; the last one is `finetune`."""
    seed: int = 0
    """Seed of the fine-tuning stages: head, order and dropout."""
    precision: Precision = "auto"
    """Arithmetic of matrix products; weights, sums and the optimizer stay float32. tf32: as float32, but GPUs from Ampere on
    round what they multiply to 10 bits of mantissa; other devices refuse it. float16: with loss scaling, for GPUs that lack
    bfloat16. auto: bfloat16 where it is faster, float16 on GPUs before Ampere that have tensor cores, else float32."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        faults = []
        if not self.stages or self.stages[-1].kind != "finetune":
            faults.append("the last stage must be finetune")
        names = [stage.name for stage in self.stages]
        faults += [f"two stages are named {n!r}; give each a `name`" for n in sorted({n for n in names if names.count(n) > 1})]
        corpora = [stage.corpus for stage in self.stages if stage.kind == "pretrain"]
        named = [name for corpus in corpora for name in corpus_names.unknown(corpus, self.tasks)]
        named += [name for stage in self.stages if stage.kind == "multitask" for name in stage.tasks if name not in self.tasks]
        wanted = [self.task] * (self.task not in self.tasks) + named
        faults += [f"task {name!r} is not among tasks{near(name, self.tasks)}" for name in wanted]
        faults += corpus_names.name_faults(self.tasks)
        for stage in self.stages:
            if isinstance(stage, Finetune | Multitask):
                read = (self.task,) if isinstance(stage, Finetune) else stage.tasks or tuple(self.tasks)
                if any(self.tasks[name].text_pair for name in read if name in self.tasks):
                    faults += [f"{stage.name}.{fault}" for fault in pair_faults(stage)]
        faults += filter(None, (corpus_names.domain_fault(corpus, self.task, self.tasks) for corpus in corpora))
        faults += [*marks_faults(self.stages), *scoring_faults(self.stages, self.tasks.get(self.task))]
        if faults:
            raise ValueError("; ".join(faults))
        return self
