"""Export the model that a study found: take the weights of the chosen final from the store, and write them as a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.review.chosen import ChosenFinal, choose
from trainables.settings.errors import ConfigError

if TYPE_CHECKING:
    from study.definition.models import Study
    from study.review.hub import Repository
    from trainables.export.description import Description
    from trainables.export.load import LoadedModel
    from trainables.stages.inputs import Inputs
    from trainables.store.store import Artifact, Store

UNCALIBRATED = "its probabilities are not calibrated: an earlier version trained it, and kept no validation predictions"


@dataclass(frozen=True)
class Exported:
    """A model that was written."""

    chosen: ChosenFinal
    folder: Path
    described: Description
    remarks: tuple[str, ...] = ()
    repository: Repository | None = None
    """Where it may be published."""

    def __str__(self) -> str:
        """Say what was written and how to load it."""
        from trainables.export import onnx_file
        from trainables.scores import temperature

        one = self.chosen
        remarks = [*self.remarks, *filter(None, [temperature.doubt(self.described.temperature)])]
        lines = [f"model: {self.folder}", f"  {one.trial.name}, {one.why}: {one.score}", *(f"  {text}" for text in remarks)]
        if self.described.plain:
            lines.append(f"transformers loads it: pipeline('text-classification', {str(self.folder)!r})")
        else:
            lines.append(f"transformers loads its encoder, not its head: {self.described.reason}")
        if onnx_file.FILE in self.described.files:
            lines.append(f"other runtimes load {self.folder / onnx_file.FILE}: onnxruntime gives the same probabilities")
        return "\n".join([*lines, f"this package loads it: trainables.load({str(self.folder)!r}).predict(texts)"])


def export(
    run: Path,
    trial: str | None = None,
    folder: Path | None = None,
    store: str | None = None,
    *,
    task: str | None = None,
    seed: int | None = None,
    force: bool = False,
    again: bool = False,
    onnx: bool = False,
    push: str | None = None,
    public: bool = False,
) -> Exported:
    """Write the model of a study, or of the cell `trial` of an ablation, into a folder, by default `model` in the run folder.

    `again` trains it once more if the store no longer has its weights. `onnx`: with a file for other runtimes. `push` names a
    repository of the hub, which is checked before any work and stands in the card; `hub.publish` then sends the folder.

    Raises ConfigError if there is no such final, if its weights are gone, if the encoder's files have changed since, if the folder
    cannot be written, or if it may not be published there.
    """
    from study.review import hub
    from study.review.model_card import model_card
    from trainables.export import write

    chosen = choose(run, trial, task, seed)
    folder = folder or run / _name(chosen, run, trial)
    write.check_place(folder, force)
    repository = None if push is None else hub.checked(push, public)
    name = None if repository is None else repository.name
    with _model(chosen, store, again, onnx=onnx) as (model, study, remarks):
        described = write.write(model, folder, lambda described: model_card(chosen, study, described, run, name), force, onnx)
    return Exported(chosen, folder, described, tuple(remarks), repository)


def _name(chosen: ChosenFinal, run: Path, trial: str | None) -> str:
    """Name of the folder if none is given: `model`, `model-f01`, of an ablation `model-STUDY-f01`."""
    study = [] if chosen.run.folder == run else [chosen.run.folder.name]
    return "-".join(["model", *study, *([] if trial is None else [chosen.trial.name])])


@contextmanager
def chosen_model(run: Path, store: str | None = None, device: str = "auto") -> Iterator[tuple[LoadedModel, list[str]]]:
    """(the model that `export` would write by default, in memory on a device, remarks to the user).

    Raises ConfigError as `export`.
    """
    with _model(choose(run), store, False, device) as (model, _, remarks):
        yield model, remarks


# Its weights ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _model(
    chosen: ChosenFinal, store: str | None, again: bool, device: str = "cpu", onnx: bool = False
) -> Iterator[tuple[LoadedModel, Study, list[str]]]:
    """(the model in memory, its study, remarks to the user)."""
    from study.review.trace import as_before, recorded, with_precision
    from trainables.export import onnx_file
    from trainables.stages import jobs
    from trainables.stages.inputs import Inputs
    from trainables.stages.run_recipe import temperature_of
    from trainables.store.artifact_files import WEIGHTS
    from trainables.store.store import Store

    trial = chosen.trial
    study, rows, recipe = recorded(chosen.run.folder, chosen.run.rows, trial.name, trial.params, trial.seed or 0)
    inputs = Inputs(recipe)
    _check_encoder(study, inputs, rows)
    if onnx:
        onnx_file.check(jobs.base_of(inputs).config.model_type)
    shared, artifact = _in_store(chosen, study, store)
    if artifact is not None and artifact.has(WEIGHTS):
        fitted = (chosen.trial.test or {}).get("temperature") or temperature_of(artifact)
        yield _loaded(artifact, study, inputs, rows, device, fitted), study, [] if fitted else [UNCALIBRATED]
        return
    if not again:
        raise ConfigError([_gone(chosen, artifact, shared, study)])
    execution = as_before(study, rows, trial.name).execution_for(keep_weights=True)
    inputs = Inputs(with_precision(recipe, execution), inputs.reader)
    with tempfile.TemporaryDirectory(prefix="study-export-") as scratch:
        artifact, remark = _trained_again(chosen, inputs, shared, Store(scratch), execution)
        yield _loaded(artifact, study, inputs, rows, device, temperature_of(artifact)), study, [remark]


def _in_store(chosen: ChosenFinal, study: Study, url: str | None) -> tuple[Store, Artifact | None]:
    """(the store, the final's artifact in it): the store that is given, the study's, or else the one that the run recorded."""
    from trainables.store.artifact_files import WEIGHTS
    from trainables.store.store import Store, StoreError

    stage_id = "".join(chosen.trial.stage_ids[-1:])
    own = Store(url or study.store or Store.default().url)
    artifact = own.get(stage_id) if stage_id else None
    recorded = next((str(row["store"]) for row in reversed(chosen.run.of("study")) if row.get("store")), None)
    if url is None and recorded and stage_id and (artifact is None or not artifact.has(WEIGHTS)):
        with suppress(StoreError, OSError):  # its address has no password, and may be that of another machine
            other = Store(os.path.expanduser(recorded))
            if (there := other.get(stage_id, (WEIGHTS,))) is not None:
                return other, there
    return own, artifact


def _gone(chosen: ChosenFinal, artifact: Artifact | None, store: Store, study: Study) -> str:
    """Why the weights of a final are gone, and what brings them back."""
    trial = chosen.trial.name
    if artifact is None:
        name = "".join(chosen.trial.stage_ids[-1:])[:12]
        why = f"the store {store.url} has no fine-tuning {name}, so give the study's own by --store"
    elif study.final.keep_weights == "none":
        why = "final.keep_weights is none, so that they were deleted at the end"
    else:
        why = "they were deleted to save space"
    return f"the weights of {trial} are gone: {why}; the same command with --again trains it once more, with the same seed"


def _check_encoder(study: Study, inputs: Inputs, rows: Sequence[dict[str, Any]]) -> None:
    """Raise ConfigError if the encoder's files, or the texts that its vocabulary is trained on, have changed since the run."""
    from study.run.inputs import changes, known
    from trainables.encoder import checkpoint
    from trainables.stages.inputs import trains_vocabulary

    now: dict[str, Mapping[str, Any]] = {
        f"encoder.{part}": {"digest": digest} for part, digest in checkpoint.digests(study.encoder).items()
    }
    if trains_vocabulary(study.encoder):
        for name, task in study.used_tasks.items():
            data = inputs.reader.task(name, task, needs_test=False)
            now[f"tasks.{name}.train"] = {"digest": data.digest("train"), "examples": len(data.train)}
    before = {name: {key: entry.get(key) for key in now[name]} for name, entry in known(rows).items() if name in now}
    if changed := changes(before, now):
        raise ConfigError(["the encoder is not the one that was fine-tuned:", *(f"  {line}" for line in changed)])


def _trained_again(chosen: ChosenFinal, inputs: Inputs, shared: Store, fresh: Store, execution: Any) -> tuple[Artifact, str]:
    """(artifact with the weights, remark on its score) of a final that is trained once more. Shared stages are loaded."""
    from study.cluster import work
    from study.review.trace import copied
    from trainables.stages.identity import nodes

    *before, last = nodes(inputs)
    for node in before:
        copied(shared, fresh, node.stage_id)
    for _ in work.here(work.Work(chosen.trial.name, inputs.recipe, fresh.url, execution), inputs.reader):
        pass
    artifact = fresh.get(last.stage_id)
    assert artifact is not None, "the fine-tuning has ended without an artifact"
    score, recorded = chosen.run.metric.score(artifact.rows("finetune")[-1]), chosen.trial.score
    same = f"validation {chosen.run.metric.label} {score:.2f} %"
    if score == recorded and chosen.trial.stage_ids[-1:] == (last.stage_id,):
        return artifact, f"trained once more: {same}, as recorded"
    return artifact, f"trained once more: {same}, recorded {recorded:.2f} %: its inputs, its device or the libraries differ"


def _loaded(
    artifact: Artifact,
    study: Study,
    inputs: Inputs,
    rows: Sequence[Mapping[str, Any]],
    device: str,
    temperature: float | None,
) -> LoadedModel:
    """The model of an artifact of fine-tuning."""
    from trainables.export.description import Description
    from trainables.export.load import of_weights
    from trainables.settings.stages import Finetune
    from trainables.settings.validate import validate
    from trainables.stages import jobs
    from trainables.stages.state_files import weights_of

    task = study.tasks[study.task]
    recorded = next((row["labels"] for row in reversed(rows) if row["event"] == "plan" and row.get("labels")), None)
    base = jobs.base_of(inputs)
    described = Description(
        labels=tuple(recorded or inputs.target.labels),
        multi_label=task.multi_label,
        pairs=task.text_pair is not None,
        finetune=validate(Finetune, artifact.manifest["settings"]),
        encoder_layers=base.layers,
        precision=artifact.manifest["precision"],
        thresholds=tuple(artifact.rows("finetune")[-1]["thresholds"]) if task.multi_label else None,
        temperature=temperature or 1.0,
        plain=False,
        files={},
    )
    return of_weights(described, base, weights_of(artifact), device)
