"""Text of a study file is taken as it is written, and comes back from the run folder's file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.records.record_fields import FIELDS
from study.ablations import ablation_file
from study.definition.models import STAGE_KINDS, Study
from study.definition.reference import EXAMPLES
from study.definition.study_file import load_study
from tests.study.tiny import inside
from trainables.settings.base import Settings, holds_text
from trainables.settings.plain_yaml import parse_yaml
from trainables.settings.stages import SETTINGS
from trainables.stages.kinds import KINDS
from trainables.store import manifest

FILE = """
name: 2020-01-01
tasks:
  no: {train: train.csv, text: yes, label: 1, labels: [no, yes, 0, 1.0, null, 012, 1:30], domain: off}
  1: {train: train.csv}
task: no
encoder: {config: {model_type: bert}}
recipe: [{pretrain: {name: on, language: no, steps: 1}}, {finetune: {name: 007}}]
space:
  on.language: {choice: [no, en]}
  on.whole_word: {choice: [no, yes]}
search: {sampler: grid, early_stopping: none, first: [{on.language: no, on.whole_word: yes}]}
"""


def test_a_study_whose_names_look_like_something_else(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(FILE, encoding="utf-8")
    loaded = load_study(path, ["tasks.no.labels=[on, off, 1]", "tasks.1.label=no", "tasks.1.split_seed=4"])
    task = loaded.tasks["no"]
    assert (task.text, task.label, task.domain) == ("yes", "1", "off")
    assert task.labels == ("on", "off", "1")
    assert (loaded.tasks["1"].label, loaded.tasks["1"].split_seed) == ("no", 4)
    assert list(loaded.stages) == ["on", "007"]
    assert loaded.space["on.language"].choice == ("no", "en")
    assert loaded.space["on.whole_word"].choice == (False, True)
    assert loaded.search.first == ({"on.language": "no", "on.whole_word": True},)
    path.write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_study(path) == loaded
    loaded = load_study(as_it_is(tmp_path))
    assert loaded.tasks["no"].labels == ("no", "yes", "0", "1.0", "null", "012", "1:30")
    assert loaded.name == "2020-01-01"


def test_a_study_from_before_a_field_of_tasks_keeps_its_digest() -> None:
    """A finished run folder is otherwise taken for unfinished."""
    task = {"train": "train.csv", "test": "test.csv"}
    data = {"name": "a", "tasks": {"t": task}, "task": "t", "encoder": {"config": {"model_type": "bert"}}}
    assert load_study(data).digest() == "f2f938c164fc8ca4"
    shared = data | {"tasks": {"t": {"train": "train.csv", "test_share": 0.2}}}
    assert load_study(data).differences(load_study(shared)) == [
        'tasks.t.test: "test.csv" here, null there',
        "tasks.t.test_share: absent here, 0.2 there",
    ]


def as_it_is(folder: Path) -> Path:
    path = folder / "as_it_is.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_an_ablation_whose_names_look_like_something_else() -> None:
    text = """
name: 1
title: no
tasks: {no: {train: a.csv, label: off, labels: [no, yes]}}
encoder: {config: {model_type: bert}}
settings: [{row: 1.0}, {row: no, column: yes, set: {finetune.epochs: 2}}]
"""
    made = ablation_file.parse(parse_yaml(text))
    assert (made.name, made.title, made.tasks["no"].label, made.tasks["no"].labels) == ("1", "no", "off", ("no", "yes"))
    assert [setting.label for setting in made.settings] == ["1.0", "no | yes"]


def models(of: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for model in of.__subclasses__():
        yield model
        yield from models(model)


def test_a_field_holds_text_wherever_a_model_has_it() -> None:
    """One name, one kind: else a value would be read by the field of another model."""
    assert Study in set(models())
    kinds: dict[str, set[bool]] = {}
    for model in models():
        for name, field in model.model_json_schema().get("properties", {}).items():
            kinds.setdefault(name, set()).add(of_text(field))
    dicts = {"tasks"}  # of a study; of a stage names of them
    for name, found in kinds.items():
        assert len(found) == 1 or name in dicts, name
        assert holds_text(name) == (True in found), name


def of_text(field: dict[str, Any]) -> bool:
    if "anyOf" in field:
        return all(of_text(each) for each in field["anyOf"] if each.get("type") != "null")
    if field.get("type") == "array":
        return "items" in field and of_text(field["items"])
    return field.get("type") == "string" and "enum" not in field and "const" not in field


def test_statistics_show_what_a_run_understands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["a,\"['x', 'y']\"", "b,['x']", "c,[]", "d,nan"]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        "name: s\ntasks: {t: {train: train.csv, multi_label: true}}\ntask: t\nencoder: {config: {model_type: bert}}\n",
        encoding="utf-8",
    )
    code, out, _ = inside(capsys, "tasks", "--stats", tmp_path / "study.yaml", "--json")
    (found,) = json.loads(out)
    train = found["splits"]["train"]
    assert code == 0
    assert (found["classes"], train["labels"], train["unlabelled"]) == (2, {"x": 2, "y": 1}, 2)
    assert [notice.partition(": ")[2].partition(" (")[0] for notice in found["notices"]] == [
        """the labels in 'label' are lists in text: "['x', 'y']" is read as x and y""",
        "no label in row 4",
    ]
    made = (tmp_path / "study.yaml").read_text(encoding="utf-8").replace("multi_label", "missing_labels: drop, multi_label")
    (tmp_path / "study.yaml").write_text(made, encoding="utf-8")
    (found,) = json.loads(inside(capsys, "tasks", "--stats", tmp_path / "study.yaml", "--json")[1])
    assert found["notices"][1] == "tasks.t.train: 1 of 4 rows have no label; a study leaves them out"


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_kind_of_stage_is_known_everywhere_by_its_model(kind: str) -> None:
    """Its fixed settings, its job, its example in the reference, what the store and the records know of its evaluations."""
    stage = SETTINGS[kind]()
    assert stage.kind == kind
    fixed = STAGE_KINDS[kind]
    assert issubclass(fixed, SETTINGS[kind])
    assert fixed().canonical() | {"head_tokens": None} == stage.canonical() | {"head_tokens": None}  # a check puts that in
    assert fixed.model_fields["name"].description == SETTINGS[kind].model_fields["name"].description
    named = {*stage.coupled, *stage.not_identity, *stage.switched_off}
    assert named <= set(SETTINGS[kind].model_fields)
    assert KINDS.keys() == EXAMPLES.keys() == SETTINGS.keys()
    assert set(manifest.TRAINED[kind]) == {"split", *stage.scored} <= set(FIELDS["evaluation"])


def test_fixed_settings_are_not_held_against_each_other() -> None:
    """The space may yet change them; a recipe's own may not be so."""
    given = {"name": "a", "pooling": "bilstm", "truncation": "hier-mean"}
    assert STAGE_KINDS["finetune"](**given).canonical()["pooling"] == "bilstm"
    with pytest.raises(ValueError, match="pooling bilstm reads all pieces"):
        SETTINGS["finetune"](**given)
