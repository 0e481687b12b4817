"""Checks of a study against its data, its encoder and the machine: all faults at once, before any work. Imports torch if needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.trackers.names import faults as tracker_faults
from study.cluster import gpus
from study.cluster.machine import Machine, check_resources
from study.definition.models import Study
from study.definition.space import extremes
from study.definition.space_faults import combinations
from study.planning import memory
from study.planning.estimate import encoder_settings, layers_of
from study.search.search import repeats
from trainables.encoder.process_memory import lasting
from trainables.settings import corpus_names
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.settings.stage_rules import pair_faults
from trainables.settings.stages import Finetune, Marks, Multitask

if TYPE_CHECKING:
    from trainables.data.splits import TaskData
    from trainables.stages.inputs import Reader

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text", "longformer", "mpnet")
"""Families whose positions start after the padding piece's number, so that a few cannot be used."""


def check(study: Study, machine: Machine | None = None, reader: Reader | None = None) -> list[str]:
    """Read all data, locate the encoder and compare the resources with the machine; returns notices.

    Without `machine`, resources are not compared: those of a cluster are known once it is joined. `reader` keeps the data. Raises
    ConfigError with all faults.
    """
    from trainables.encoder import checkpoint
    from trainables.stages.inputs import Reader

    reader = reader or Reader()
    faults: list[str] = []
    notices: list[str] = []

    def gather(action: Callable[[], Iterable[str]]) -> None:
        try:
            notices.extend(action())
        except ConfigError as error:
            faults.extend(error.faults)

    for name, task in study.used_tasks.items():
        gather(partial(lambda name, task: reader.task(name, task, needs_test=name == study.task).notices, name, task))
    gather(partial(_no_notices, checkpoint.digest, study.encoder))
    gather(partial(encoder_notices, study, reader))
    if study.baseline and not faults:
        gather(partial(_baseline_notices, study, reader))
    if not faults:  # corpora are made of the tasks' texts
        for entries in corpus_choices(study):
            names, files = corpus_names.members(entries, study.task, study.tasks)
            gather(partial(lambda names, files: reader.corpus(names, study.used_tasks, files).notices, names, files))
        for _, stage in _pretraining(study):
            gather(partial(_selection_notices, study, stage, reader))
        for place, stage in _paired_stages(study):
            gather(partial(_pair_notices, study, place, stage, reader))
        for names in _member_choices(study):
            gather(partial(lambda names: reader.members(names, study.used_tasks).notices, names))
        faults += [*_length_faults(study), *_layer_faults(study), *_subset_faults(study, reader), *_adapter_faults(study)]
    faults += [*_pair_faults(study), *(f"track: {fault}" for fault in tracker_faults(study.track))]
    notices += filter(None, [repeats(study)])
    if machine is not None:
        gather(partial(_no_notices, check_resources, study.resources, machine))
        notices += machine.notices
    if study.precision == "tf32" and (why := _without_tf32(study, machine)):
        faults.append(f"precision: tf32 given, but {why}; use float32")
    if machine is not None and not faults:
        gather(partial(memory.notices, study))
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return list(dict.fromkeys(notices))


def encoder_notices(study: Study, reader: Reader) -> list[str]:
    """Notices of the encoder, its tokenizer, and the tokenization of the target task's training texts.

    Raises ConfigError with all faults of the encoder.
    """
    with lasting():  # torch and transformers
        from trainables.encoder.check import check_encoder
        from trainables.encoder.load import check_config

    masks = any(True for _ in _pretraining(study)) or any(isinstance(stage, Marks) for stage in study.recipe)
    notices: list[str] = []
    faults: list[str] = []
    files = partial(check_encoder, study.encoder, training_texts(study, reader), masks, pools(study))
    for action in (files, partial(_no_notices, check_config, study.encoder.config)):
        try:
            notices += action()
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return notices


def pools(study: Study) -> bool:
    """Whether some trial uses the encoder's pooler."""
    stages = [stage for stage in study.recipe if isinstance(stage, Finetune | Multitask)]
    pooled = any("pooled" in extremes(f"{stage.name}.pooling", study.space, study.fixed) for stage in stages)
    return pooled or any(True for _ in _paired_stages(study))


def training_texts(study: Study, reader: Reader) -> tuple[str, ...]:
    """The target task's training texts; none if they cannot be read, which is a fault of its own."""
    try:
        return reader.task(study.task, study.tasks[study.task], needs_test=False).train.texts
    except ConfigError:
        return ()


def _target(study: Study, reader: Reader) -> TaskData:
    return reader.task(study.task, study.tasks[study.task])


def _no_notices(action: Callable[..., object], *arguments: object) -> tuple[str, ...]:
    action(*arguments)
    return ()


def _baseline_notices(study: Study, reader: Reader) -> Iterator[str]:
    """A notice if the bag of words counts characters or signs instead of words."""
    from trainables.data.scripts import CHARACTERS
    from trainables.scores.bag_of_words import words_taken

    taken = words_taken(_target(study, reader).train.texts)
    if taken == "characters":
        why = "most letters are of scripts that put no space between words"
        yield f"tasks.{study.task}: {why}: the bag of words looks at {CHARACTERS[0]} to {CHARACTERS[1]} characters in a row"
    elif taken == "signs":
        yield f"tasks.{study.task}: no training text holds a word: the bag of words looks at single signs and pairs of them"


def corpus_choices(study: Study) -> Iterator[tuple[str, ...]]:
    """The corpora that further pre-training can read in this study."""
    for _, stage in _pretraining(study):
        for names in extremes(f"{stage.name}.corpus", study.space, study.fixed):
            yield tuple(names)


def _pretraining(study: Study) -> Iterator[tuple[int, Pretrain]]:
    """(index in the recipe, stage) of further pre-training with steps in some trial."""
    for index, stage in enumerate(study.recipe):
        if isinstance(stage, Pretrain):
            lengths = [extremes(f"{stage.name}.{field}", study.space, study.fixed) for field in ("steps", "epochs")]
            if any(map(any, lengths)):
                yield index, stage


def _selection_notices(study: Study, stage: Pretrain, reader: Reader) -> Iterator[str]:
    """Notices of the texts that a stage can select from. Raises ConfigError if there are none."""
    target = _target(study, reader)
    paths = [f"{stage.name}.{field}" for field in ("select", "corpus", "neighbours", "embeddings")]
    for params in combinations(study.space, study.fixed, paths):
        select, corpus, neighbours, embeddings = ({**study.fixed, **params}[path] for path in paths)
        if select != "all":
            names, files = corpus_names.members(corpus, study.task, study.tasks)
            pool = reader.pool(reader.corpus(names, study.used_tasks, files), target, study.task in names)
            yield from pool.notices(neighbours, embeddings)


def _paired_stages(study: Study) -> Iterator[tuple[str, Pretrain]]:
    """(place of the objective, stage) of further pre-training that can have next-sentence prediction."""
    for index, stage in _pretraining(study):
        path = f"{stage.name}.objective"
        if "mlm+nsp" in extremes(path, study.space, study.fixed):
            yield f"space.{path}" if path in study.space else f"recipe.{index}.pretrain.objective", stage


def _pair_notices(study: Study, place: str, stage: Pretrain, reader: Reader) -> Iterator[str]:
    """Notices of pairs in the stage's corpora. Raises ConfigError for an encoder that does not support pairs."""
    from trainables.batches.sentences import split, why_no_pairs
    from trainables.heads.next_sentence import pair_fault

    if fault := pair_fault(encoder_settings(study.encoder)):
        raise ConfigError([f"{place}: {fault}"])
    for entries in extremes(f"{stage.name}.corpus", study.space, study.fixed):
        names, files = corpus_names.members(entries, study.task, study.tasks)
        if reason := why_no_pairs(split(reader.corpus(names, study.used_tasks, files).texts, stage.language)[1]):
            yield f"corpus {', '.join((*names, *map(corpus_names.short, files)))}: {reason}"


def _member_choices(study: Study) -> Iterator[tuple[str, ...]]:
    """The tasks that multi-task stages can be trained on in this study."""
    for stage in study.recipe:
        if isinstance(stage, Multitask):
            for names in extremes(f"{stage.name}.tasks", study.space, study.fixed):
                yield tuple(names) or tuple(study.used_tasks)


def _corners(study: Study, stage: Settings, fields: Iterable[str]) -> Iterator[tuple[Any, str]]:
    """(the stage with an extreme value of one of these fields, the place in the study file that sets it)."""
    index, name = next((i, entry.name) for i, entry in enumerate(study.recipe) if entry is stage)
    for field in fields:
        path = f"{name}.{field}"
        for value in extremes(path, study.space, study.fixed):
            place = f"space.{path}" if path in study.space else f"recipe.{index}.{stage.canonical()['kind']}.{field}"
            yield stage.model_copy(update={field: value}), place


def _layer_faults(study: Study) -> Iterator[str]:
    """Faults for layers that the encoder does not have."""
    blocks = layers_of(study.encoder)
    for stage in study.recipe:
        if isinstance(stage, Finetune):
            fields = ("layers", "freeze", "reinit_layers")
            yield from _corner_faults(study, stage, fields, lambda corner: corner.layer_faults(blocks))


def _without_tf32(study: Study, machine: Machine | None) -> str:
    """Why trials would compute without TF32; empty if they would not. GPUs of a cluster are known to its workers alone."""
    if not (study.resources.gpus if machine is None else machine.gpus_for(study.resources)):
        return f"trials run on CPUs (resources.gpus: {study.resources.gpus}), which do not have it"
    lacking = [] if machine is None else gpus.without_tf32()
    return f"{', '.join(dict.fromkeys(lacking))} does not have it, only NVIDIA's GPUs from Ampere on" if lacking else ""


def _pair_faults(study: Study) -> Iterator[str]:
    """Faults for settings that do not support tasks on pairs of texts."""
    for stage in study.recipe:
        if isinstance(stage, Finetune | Multitask):
            read = (study.task,) if isinstance(stage, Finetune) else {name for names in _member_choices(study) for name in names}
            if any(study.tasks[name].text_pair for name in read):
                yield from _corner_faults(study, stage, ("truncation", "max_length"), pair_faults)


def _corner_faults(study: Study, stage: Settings, fields: Iterable[str], faults_of: Callable[[Any], list[str]]) -> Iterator[str]:
    """Faults of a stage's extreme values of these fields; `faults_of` returns faults that begin with the field."""
    for corner, place in _corners(study, stage, fields):
        field = place.rpartition(".")[2]
        yield from (place + fault.removeprefix(field) for fault in faults_of(corner) if fault.startswith(field))


def _adapter_faults(study: Study) -> Iterator[str]:
    """Faults for adapters without their package, or on layers that the encoder does not have."""
    from trainables.encoder import lora

    for stage in study.recipe:
        if not isinstance(stage, Finetune) or not any(extremes(f"{stage.name}.lora_rank", study.space, study.fixed)):
            continue
        for corner, place in _corners(study, stage, ("lora_rank",)):
            yield from (place + fault.removeprefix("lora_rank") for fault in lora.missing(corner.lora_rank))
        for corner, place in _corners(study, stage, ("lora_targets",)):
            if corner.lora_targets is not None:
                from trainables.encoder.load import target_faults  # imports torch

                yield from (
                    place + fault.removeprefix("lora_targets") for fault in target_faults(study.encoder, corner.lora_targets)
                )


def _subset_faults(study: Study, reader: Reader) -> Iterator[str]:
    """Faults for fewer training texts than the settings need, or than there are classes."""
    from trainables.stages.inputs import scored_texts

    data = _target(study, reader)
    for stage in study.recipe:
        fields = {"finetune": ("train_share", "train_examples"), "marks": ("scored_texts",)}.get(stage.kind, ())
        for corner, place in _corners(study, stage, fields):
            try:
                scored_texts(corner, data) if isinstance(corner, Marks) else reader.train_places(data, corner, study.seed)
            except ConfigError as error:
                yield from (f"{place}: {fault.partition(': ')[2]}" for fault in error.faults)


def _length_faults(study: Study) -> Iterator[str]:
    """Faults for sequences longer than the encoder's positions."""
    if (there := positions(study.encoder)) is None:
        return
    for index, stage in enumerate(study.recipe):
        path = f"{stage.name}.max_length"
        longest = max(extremes(path, study.space, study.fixed))
        if longest > there:
            place = f"space.{path}" if path in study.space else f"recipe.{index}.{stage.kind}.max_length"
            yield f"{place}: {longest} given, but the encoder has positions for {there} pieces, special tokens included"


def positions(encoder: Encoder) -> int | None:
    """Longest sequence that an encoder has positions for, special tokens included; None without a limit."""
    settings = encoder_settings(encoder)
    there = settings.get("max_position_embeddings")
    if not isinstance(there, int) or settings.get("position_biased_input") is False:
        return None
    return there - (settings.get("pad_token_id", 1) + 1 if settings.get("model_type") in OFFSET_POSITIONS else 0)
