"""The README of an exported model: a model card with the front matter that the hub reads.

It states only what the records hold: no path of a machine, no number that was not measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from analysis.records.metric import ERROR_RATE, METRICS, Metric
from analysis.records.run_folder import settings_text
from analysis.text.numbers import interval, spread
from analysis.text.plain import plain
from trainables.data.known_tasks import NOT_STATED, TABLE
from trainables.scores import temperature

if TYPE_CHECKING:
    from study.definition.models import Study
    from study.review.chosen import ChosenFinal
    from trainables.export.description import Description
    from trainables.settings.stages import Stage

HUB_METRICS = {"accuracy": METRICS["accuracy"], "f1": METRICS["macro_f1"], "matthews_correlation": METRICS["mcc"]}
"""{the hub's name of a metric: ours}, for tasks with one label per text."""
HUB_METRICS_OF_SEVERAL = {"f1": METRICS["micro_f1"], "accuracy": METRICS["subset_accuracy"]}
"""The same for multi-label tasks."""
LEFT_OUT = ("name", "kind")
"""Fields of a stage that are no settings of the model."""


def model_card(chosen: ChosenFinal, study: Study, described: Description, run: Path, hub: str | None = None) -> str:
    """Text of the card. `hub`: the repository of the hub that the model is published in."""
    front = yaml.safe_dump(_front(chosen, study, described), sort_keys=False, allow_unicode=True)
    parts = [
        [f"# {plain(study.name)}", "", _summary(chosen, study, described)],
        ["## Use", "", *_use(described, hub)],
        ["## How it was chosen", "", *_choice(chosen, study)],
        ["## Results", "", *_results(chosen)],
        ["## Data", "", *_data(chosen, study)],
        ["## Training", "", *_training(chosen, study, described)],
        ["## Versions", "", *_versions(chosen, run)],
    ]
    return f"---\n{front}---\n\n" + "\n\n".join("\n".join(part) for part in parts) + "\n"


# Front matter --------------------------------------------------------------------------------------------------------------------


def _front(chosen: ChosenFinal, study: Study, described: Description) -> dict[str, Any]:
    """The fields that the hub reads. A model without a measured test score has no `model-index`."""
    task, scores = study.tasks[study.task], dict(_hub_scores(chosen, described.multi_label))
    front: dict[str, Any] = {
        "library_name": "transformers" if described.plain else "finetune-study",
        "pipeline_tag": "text-classification",
        "base_model": study.encoder.hub,
        "datasets": [task.hub] if task.hub else None,
        "metrics": list(HUB_METRICS_OF_SEVERAL if described.multi_label else HUB_METRICS),
        "tags": ["finetune-study"],
    }
    if scores:
        dataset = {"name": study.task, "type": task.hub or study.task, "split": "test"}
        metrics = [{"type": kind, "value": round(score / 100, 6), "name": name} for (kind, name), score in scores.items()]
        results = {"task": {"type": "text-classification"}, "dataset": dataset, "metrics": metrics}
        front["model-index"] = [{"name": study.name, "results": [results]}]
    return {name: value for name, value in front.items() if value}


def _hub_scores(chosen: ChosenFinal, several: bool) -> Iterator[tuple[tuple[str, str], float]]:
    """((the hub's name of a metric, our label of it), test score of these weights in percent)."""
    for kind, metric in (HUB_METRICS_OF_SEVERAL if several else HUB_METRICS).items():
        score = metric.score(chosen.trial.test) if chosen.trial.test else None
        if score is not None:
            yield (kind, metric.label), score


# Sections ------------------------------------------------------------------------------------------------------------------------


def _summary(chosen: ChosenFinal, study: Study, described: Description) -> str:
    what = "pairs of texts" if described.pairs else "texts"
    kind = "several labels per text" if described.multi_label else f"{len(described.labels)} classes"
    names = ", ".join(f"`{plain(name, 60)}`" for name in described.labels[:20]) + (", ..." if len(described.labels) > 20 else "")
    return f"Classifies {what} of the task `{plain(study.task)}` ({kind}: {names}). It is {_encoder(study)}, fine-tuned."


def _encoder(study: Study) -> str:
    """The encoder, without a path of this machine."""
    encoder = study.encoder
    if encoder.hub:
        revision = f" at revision `{encoder.revision}`" if encoder.revision else ""
        return f"[{encoder.hub}](https://huggingface.co/{encoder.hub}){revision}"
    if encoder.config is not None:
        return f"an encoder of the family {encoder.config['model_type']} trained from scratch"
    return f"`{Path(encoder.folder or '').name}`" + (f" of the package `{encoder.package}`" if encoder.package else "")


def _use(described: Description, hub: str | None) -> Iterator[str]:
    stage, example = described.finetune, '("A question?", "An answer.")' if described.pairs else '"A film to remember."'
    place = "FOLDER" if hub is None else f'"{hub}"'
    if described.plain:
        theirs = '{"text": "A question?", "text_pair": "An answer."}' if described.pairs else example
        yield from ("```python", "from transformers import pipeline", "", f'classify = pipeline("text-classification", {place})')
        yield from (f"classify({theirs}, top_k=None)", "```", "")
        yield f"These are the study's own probabilities for texts of at most {stage.max_length} pieces, special tokens included."
        if stage.truncation not in ("head", "tail"):
            yield f"A longer text was cut as `{stage.truncation}` in training, which transformers does not do."
    else:
        yield f"`AutoModel.from_pretrained` loads the encoder. Its head lies in `head.safetensors`: {described.reason}."
    if described.precision == "bfloat16":
        yield "Training and evaluation computed matrix products in bfloat16; in float32 probabilities differ slightly."
    yield from ("", "The package finetune-study predicts texts of any length as in the study:", "")
    fetched = [] if hub is None else ["from huggingface_hub import snapshot_download", ""]
    folder = "FOLDER" if hub is None else f"snapshot_download({place})"
    yield from ("```python", "import trainables", *(fetched or [""]), f"model = trainables.load({folder})")
    yield from (f"model.predict([{example}]).labels", "```")
    if described.thresholds is not None:
        each = zip(described.labels, described.thresholds, strict=True)
        shown = ", ".join(f"{plain(name, 60)} {value:.2f}" for name, value in each)
        yield from ("", f"It predicts the labels whose probability reaches their threshold: {shown}.")
    if (doubt := temperature.doubt(described.temperature)) is not None:
        yield from ("", f"Calibration: {doubt}.")


def _choice(chosen: ChosenFinal, study: Study) -> Iterator[str]:
    run, setting = chosen.run, chosen.setting
    if run.space:
        searched = ", ".join(dimension.name for dimension in run.space)
        trials = f"A search (`{study.search.sampler}`) of {_count(len(run.search), 'trial')} over {plain(searched)}"
        yield f"{trials}, compared by validation {run.metric.label}."
    yield f"Its best settings were then run with {_count(len(setting.trials), 'seed')} and ranked by their mean on validation."
    if text := settings_text(chosen.trial.params, run.space):
        yield f"This setting: {text}."
    yield f"These weights are {chosen.why}. The test split was read once, after all choices."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _results(chosen: ChosenFinal) -> Iterator[str]:
    run, setting, trial = chosen.run, chosen.setting, chosen.trial
    yield from ("| metric (percent) | these weights | mean ± sd over seeds | 95 % interval of the mean |", "|---|---|---|---|")
    yield f"| validation {run.metric.label} | {_shown(trial.score)} | {spread(setting.validation)} | |"
    if trial.test:
        yield (
            f"| test {run.metric.label} | {_shown(run.metric.score(trial.test))} | {spread(setting.test)} |"
            f" {interval(setting.interval or setting.texts_interval)} |"
        )
        for metric in [metric for metric in _others(run.metric) if metric.score(trial.test) is not None]:
            yield f"| test {metric.label} | {_shown(metric.score(trial.test))} | {spread(setting.test_by(metric))} | |"
    if (baseline := run.metric.score(run.baseline.get("test", {}))) is not None:
        yield from ("", f"A bag of words has a test {run.metric.label} of {baseline:.2f} %.")
    if trial.test and not setting.interval and setting.texts_interval:
        yield from ("", "The interval is over test texts alone: one seed says nothing about the spread over seeds.")


def _others(metric: Metric) -> list[Metric]:
    return [other for other in (ERROR_RATE, METRICS["macro_f1"]) if other.field != metric.field]


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"


def _data(chosen: ChosenFinal, study: Study) -> Iterator[str]:
    task = study.tasks[study.task]
    known = next((entry for entry in TABLE.values() if entry.task is not None and _same_source(entry.task, task)), None)
    files = {split: value for split in ("train", "validation", "test") if (value := getattr(task, split))}
    source = f"[{task.hub}](https://huggingface.co/datasets/{task.hub})" if task.hub else ""
    source = source or ", ".join(f"`{Path(name.split('?')[0]).name}`" for name in files.values())
    source = source or f"`{Path(task.folder or '').name}`"
    sizes = ", ".join(f"{count} {split}" for split, count in chosen.run.sizes.items())
    yield f"{source}{f': {sizes} texts' if sizes else ''}."
    if known is not None and known.licence != NOT_STATED:
        yield f"Licence of the data: {known.licence}."
    else:
        yield "The licence of the data is not recorded: look it up before you pass the model on."


def _same_source(one: Any, other: Any) -> bool:
    return (one.hub, one.train) == (other.hub, other.train)


def _training(chosen: ChosenFinal, study: Study, described: Description) -> Iterator[str]:
    """All settings of the stages, and where the arithmetic was done."""
    recipe = study.recipe_for(dict(chosen.trial.params), chosen.trial.seed or 0)
    stages = [{stage.kind: _settings(stage)} for stage in recipe.stages if stage.trains]
    device = chosen.trial.test.get("device") if chosen.trial.test else None
    yield f"Seed {chosen.trial.seed}, precision {described.precision}{f', on {plain(device, 60)}' if device else ''}."
    yield from ("", "```yaml", yaml.safe_dump(stages, sort_keys=False, allow_unicode=True).rstrip(), "```")


def _settings(stage: Stage) -> dict[str, Any]:
    """The settings of a stage that play a part, text files without their folders."""
    settings = stage.canonical()
    if settings.get("corpus"):
        settings["corpus"] = [Path(entry).name for entry in settings["corpus"]]
    return {name: value for name, value in settings.items() if name not in (*LEFT_OUT, *stage.switched_off)}


def _versions(chosen: ChosenFinal, run: Path) -> Iterator[str]:
    rows = chosen.run.of("study")
    versions: Mapping[str, str] = next((row["versions"] for row in reversed(rows) if row.get("versions")), {})
    yield "Trained with " + ", ".join(f"{plain(name, 40)} {plain(version, 40)}" for name, version in versions.items()) + "."
    shown = run.name if run.is_absolute() else str(run)
    yield f"Exported by `study export {shlex.quote(shown)}` (final `{chosen.trial.name}`, seed {chosen.trial.seed})."
