"""A study against its data, its encoder and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.cluster.machine import Machine
from study.definition.models import Study
from study.definition.study_file import load_study
from study.planning.check import check, encoder_notices, pools
from tests.helpers import TINY_BERT, pair_task, tiny_task, write_csv
from tests.study.definition.test_study_file import HEAD_TOKENS, STUDY, changed
from tests.trainables.families import checkpoint
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader


def real_study(folder: Path, **changes: Any) -> Study:
    tasks = {name: tiny_task(folder, f"sls_{name}").canonical() for name in ("imdb", "yelp")}
    data = changed(tasks=tasks, task="imdb", search=None, **changes)
    data["recipe"][0]["pretrain"]["corpus"] = ["imdb", "yelp"]
    return load_study(data)


def test_check_reads_everything_and_gathers_all_faults(tmp_path: Path) -> None:
    study = real_study(tmp_path)
    assert all(isinstance(notice, str) for notice in check(study, Machine(((4, 0),))))
    (tmp_path / "sls_yelp-train.csv").unlink()
    (tmp_path / "sls_imdb-test.csv").write_text("text,lable\nfine,1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        check(_fresh(study).model_copy(update={"precision": "tf32"}), Machine(((0, 0),)))
    text = "\n".join(caught.value.faults)
    assert "tasks.yelp" in text
    assert "tasks.imdb.test" in text
    assert "resources.cpus: 1 requested for a trial, but this machine has 0 CPUs" in text
    assert "precision: tf32 given, but trials run on CPUs" in text


def test_check_reads_the_tasks_of_a_stage_on_several(tmp_path: Path) -> None:
    tasks = {name: tiny_task(tmp_path, f"sls_{name}").canonical() for name in ("imdb", "yelp")}
    recipe = [{"multitask": {"max_length": 24, "head_tokens": 6}}, {"finetune": {"max_length": 24, "head_tokens": 6}}]
    data = {"name": "x", "tasks": tasks, "task": "imdb", "encoder": STUDY["encoder"], "recipe": recipe}
    check(load_study(data))
    with pytest.raises(ConfigError, match=r"recipe.0.multitask.max_length: 129 given, but the encoder has positions for 128"):
        check(load_study(data, ["recipe.multitask.max_length=129"]))
    twice = data | {"tasks": tasks | {"films": tasks["imdb"]}}
    with pytest.raises(ConfigError, match="the tasks 'films' and 'imdb' hold the same data"):
        check(load_study(twice))


def _fresh(study: Study) -> Study:
    """The study under other task settings, so that data already loaded in this process do not hide what is on disk."""
    tasks = {name: task.model_copy(update={"split_seed": 5}) for name, task in study.tasks.items()}
    return study.model_copy(update={"tasks": tasks})


def test_check_reads_the_files_of_corpora(tmp_path: Path) -> None:
    study = real_study(tmp_path, **{"space__pretrain.corpus": {"choice": [["cross-domain"], [str(tmp_path / "more.txt")]]}})
    with pytest.raises(ConfigError, match=r"corpus: .*more.txt: there is no such file"):
        check(study)
    (tmp_path / "other.txt").write_text("One.\nTwo.\n")
    study = real_study(tmp_path, **{"space__pretrain.corpus": {"choice": [["cross-domain"], [str(tmp_path / "other.txt")]]}})
    assert "corpus other.txt: 2 documents in other.txt, one a line" in check(study)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            ("很好吃", "不好"),
            "most letters are of scripts that put no space between words: the bag of words looks at",
        ),
        (("👍", "👎"), "no training text holds a word: the bag of words looks at single signs"),
        (("good 好", "bad 坏"), ""),
    ],
)
def test_check_tells_what_the_bag_of_words_looks_at(texts: tuple[str, str], told: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(text * (1 + i), "ab"[j]) for i in range(8) for j, text in enumerate(texts)])
    other = write_csv(tmp_path / "b.csv", [("one", "a"), ("two", "b")])
    task = {"train": path, "test": other, "validation": other}
    data = changed(tasks={"mine": task}, task="mine", search=None)
    data["recipe"][0]["pretrain"]["corpus"] = []
    data["space"] = {name: spec for name, spec in data["space"].items() if "corpus" not in name}
    notices = [notice for notice in check(load_study(data)) if "bag of words" in notice]
    assert bool(notices) == bool(told)
    assert all(notice.startswith(f"tasks.mine: {told}") for notice in notices)
    assert not [notice for notice in check(load_study(data | {"baseline": False})) if "bag of words" in notice]


def test_check_refuses_pairs_for_encoders_without_them_and_tells_where_there_are_none(tmp_path: Path) -> None:
    study = real_study(tmp_path, **{"space__pretrain.objective": {"choice": ["mlm", "mlm+nsp"]}})
    (notice,) = [each for each in check(study) if "next-sentence" in each]
    assert notice.startswith("corpus imdb, yelp: next-sentence prediction is off: 1 of 90 documents")
    for encoder, types in (({"model_type": "distilbert"}, 0), (TINY_BERT | {"type_vocab_size": 1}, 1)):
        single = study.model_copy(update={"encoder": Encoder(config=encoder, vocabulary=400)})
        with pytest.raises(ConfigError, match=f"^space.pretrain.objective: mlm.nsp needs .* has {types} token types; use mlm"):
            check(single)
    never = study.model_copy(update={"space": {path: each for path, each in study.space.items() if "pretrain" not in path}})
    assert not [each for each in check(never) if "next-sentence" in each], "zero steps ask nothing"


def test_check_refuses_what_pairs_of_texts_cannot_have(tmp_path: Path) -> None:
    tasks = {"pairs": pair_task(tmp_path).canonical(), "other": tiny_task(tmp_path).canonical()}
    recipe = [{"multitask": {"max_length": 5, "head_tokens": 1}}, {"finetune": {"max_length": 24, "head_tokens": 6}}]
    space = {"finetune.truncation": {"choice": ["head", "hier-max"]}, "finetune.max_length": {"int": [4, 24]}}
    data = {"name": "x", "tasks": tasks, "task": "pairs", "encoder": STUDY["encoder"], "recipe": recipe, "space": space}
    with pytest.raises(ConfigError) as caught:
        check(load_study(data))
    ways = "use head, tail or head+tail, or a task without `text_pair`"
    assert caught.value.faults == (
        "recipe.0.multitask.max_length: 5 given, but a pair of texts needs at least 6",
        f"space.finetune.truncation: hier-max given, but pairs of texts are not read in fractions; {ways}",
        "space.finetune.max_length: 4 given, but a pair of texts needs at least 6",
    )
    others = data | {"task": "other", "recipe": [{"multitask": {"max_length": 5, "head_tokens": 1, "tasks": ["other"]}}, recipe[1]]}
    check(load_study(others))


def test_check_refuses_lengths_beyond_the_encoder(tmp_path: Path) -> None:
    study = real_study(tmp_path, **{"space__finetune.max_length": {"choice": [24, 129]}})
    with pytest.raises(ConfigError, match=r"space.finetune.max_length: 129 given, but the encoder has positions for 128 pieces"):
        check(study)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"space__finetune.pooling": {"choice": ["cls", "pooled"]}}, True),
        ({"space__finetune.pooling": {"choice": ["cls", "mean"]}}, False),
        (
            {"space__finetune.pooling": {"choice": ["cls", "mean"]}, "space__pretrain.objective": {"choice": ["mlm", "mlm+nsp"]}},
            True,
        ),
    ],
)
def test_a_plan_tells_that_there_is_no_pooler_where_one_is_asked_for(tmp_path: Path, changes: dict[str, Any], told: bool) -> None:
    study = real_study(tmp_path, **changes).model_copy(update={"encoder": Encoder(folder=str(checkpoint("bert")))})
    assert pools(study) == told
    assert any("no pooler in the checkpoint; a new dense" in notice for notice in encoder_notices(study, Reader())) == told


ADAPTERS = {"finetune.lora_rank": {"choice": [0, 4]}, "finetune.lora_targets": {"choice": [["query"], ["querry"]]}} | HEAD_TOKENS


def test_adapters_are_checked_against_the_encoder_and_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = real_study(tmp_path, space=ADAPTERS)
    with pytest.raises(ConfigError) as caught:
        check(study)
    (fault,) = caught.value.faults
    assert fault.startswith(
        "space.finetune.lora_targets: 'querry' is no linear layer in the blocks of this bert; did you mean 'query'"
    )
    monkeypatch.setattr("trainables.encoder.lora.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"space.finetune.lora_rank: 4 given, but .*pip install \"finetune-study\[lora\]\""):
        check(study)
    check(load_study(yaml.safe_load(study.to_yaml()), ["space.finetune.lora_rank=null", "space.finetune.lora_targets=null"]))
