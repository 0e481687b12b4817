"""Marks in a study: what is refused, what is shared, and `study marks` as text, in colour and as a page."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.records import record
from study.definition.models import Study
from study.definition.study_file import load_study
from study.planning.check import check
from study.planning.plan import trajectories
from study.planning.plan_text import show
from study.review import marks
from study.review.marks import MarkedTexts, Word
from tests.helpers import TINY_BERT, tiny_task
from tests.study.tiny import ROOT, answer, inside
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

SHARED = {"batch_size": 8, "max_length": 24, "learning_rate": 1e-3}
RECIPE: list[dict[str, Any]] = [
    {"marks": SHARED | {"epochs": 2, "scorer_epochs": 1, "scorer_learning_rate": 1e-3}},
    {"pretrain": SHARED | {"schedule_steps": 4, "steps": 4, "masking": "selective"}},
    {"finetune": SHARED | {"epochs": 1, "head_tokens": 6}},
]
MASKINGS = {"pretrain.masking": {"choice": ["random", "matched", "selective"]}}


def plain_study(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "words",
        "tasks": {"reviews": tiny_task(folder).canonical()},
        "task": "reviews",
        "encoder": {"config": TINY_BERT, "vocabulary": 400},
        "recipe": RECIPE,
        "precision": "float32",
    } | changes


def without(place: int) -> list[dict[str, Any]]:
    return [stage for index, stage in enumerate(RECIPE) if index != place]


def random(**more: Any) -> list[dict[str, Any]]:
    pretrain = RECIPE[1]["pretrain"] | {"masking": "random"} | more
    return [RECIPE[0], {"pretrain": pretrain}, RECIPE[2]]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recipe": without(0)}, "recipe.pretrain: masking by marks needs a stage that marks: put {marks: {}} before it, or use"),
        ({"recipe": without(1)}, "recipe.marks: nothing uses these marks: give a later pretrain stage masking selective or"),
        ({"recipe": random()}, "recipe.marks: nothing uses these marks"),
        ({"recipe": random()[1:], "space": MASKINGS}, "recipe.pretrain: masking by marks needs a stage that marks"),
        (
            {"recipe": random(), "space": MASKINGS | {"pretrain.whole_word": {"choice": [True, False]}}},
            "space: pretrain.masking matched, pretrain.whole_word true: whole_word draws words",
        ),
        ({"recipe": random(objective="mlm+nsp"), "space": MASKINGS}, "masking selective supports only objective mlm"),
        ({"recipe": [{"marks": {"treshold": 0.1}}, *RECIPE[1:]]}, "treshold: unknown field; did you mean 'threshold'?"),
        ({"recipe": RECIPE, "space": {"marks.stop_words": {"choice": ["german"]}}}, "'german' is not one of english, none"),
        ({"recipe": [{"mark": {}}, *RECIPE[1:]]}, "no kind of stage is called 'mark'; did you mean 'marks'?"),
    ],
)
def test_faulty_recipes_and_spaces(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(plain_study(tmp_path, **changes))
    assert any(fault in line for line in caught.value.faults), caught.value.faults


def test_faults_of_the_data(tmp_path: Path) -> None:
    data = plain_study(tmp_path)
    check(load_study(data))
    with pytest.raises(ConfigError, match=r"recipe.0.marks.scored_texts: 46 given, but reviews has 45 training texts"):
        check(load_study(data, ["recipe.marks.scored_texts=46"]))
    with pytest.raises(ConfigError, match=r"recipe.0.marks.max_length: 129 given, but the encoder has positions for 128"):
        check(load_study(data, ["recipe.marks.max_length=129"]))
    with pytest.raises(ConfigError, match=r"recipe.marks: a word is scored by the probability of its text's one class"):
        load_study(data, ["tasks.reviews.multi_label=true"])


def test_a_trial_has_the_marks_that_it_uses(tmp_path: Path) -> None:
    study = load_study(plain_study(tmp_path, space=MASKINGS))
    kinds = {
        masking: [stage.kind for stage in study.recipe_for({"pretrain.masking": masking}, 0).stages]
        for masking in ("random", "matched", "selective")
    }
    used = ["marks", "pretrain", "finetune"]
    assert kinds == {"random": used[1:], "matched": used, "selective": used}
    assert load_study(yaml.safe_load(study.to_yaml())) == study


def test_scorer_and_marker_are_shared_before_what_is_masked(tmp_path: Path) -> None:
    space = MASKINGS | {"finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    study, store = load_study(plain_study(tmp_path, space=space)), Store(str(tmp_path / "store"))
    shared = trajectories(study)
    told = [(each.name, each.kind) for each in shared]
    assert sorted(told) == [("marks", "marks"), ("marks.scorer", "marks")] + [("pretrain", "pretrain")] * 3
    place = {each.trajectory_id: index for index, each in enumerate(shared)}
    for each in shared:
        for node in each.nodes:
            assert node.reads is None or place[node.reads] < place[each.trajectory_id]
    shown = show(study, store)
    assert "marks.scorer, 6 steps on reviews" in shown
    assert f"marks, {2 * -(-(45 - 4) // 8)} steps on reviews" in shown


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, Store]:
    """A run folder as a study leaves it, made without Ray."""
    folder = tmp_path_factory.mktemp("marks")
    data = plain_study(folder, store=str(folder / "store"), recipe=[{"marks": RECIPE[0]["marks"] | {"name": "words"}}, *RECIPE[1:]])
    study, store = load_study(data), Store(str(folder / "store"))
    recipe = study.recipe_for({}, 0)
    list(runner.run(recipe, store, Execution(threads=1)))
    run_dir = folder / "run"
    records = record.Records(run_dir / "records.jsonl", study="words")
    records.append("study", status="started")
    for node in nodes(Inputs(recipe))[:2]:
        records.append("stage", stage_id=node.stage_id, status="computed", kind="marks")
    records.append("trial", trial="t000", status="complete", stage_ids=[node.stage_id for node in nodes(Inputs(recipe))])
    (run_dir / "study.yaml").write_text(study.to_yaml(), encoding="utf-8")
    return run_dir, study, store


def test_what_is_shown(finished: tuple[Path, Study, Store], capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, _, store = finished
    task, corpus = marks.load(run_dir, most=3)
    assert task.title == "words: words of the task's training texts"
    assert "threshold 0.05, stop words english; best F1 on held-out texts 0." in task.description
    assert corpus.title == "pretrain: masked words of the corpus"
    assert corpus.description.startswith("at most 15% of a sequence; 3 of ")
    assert len(task.texts) == len(corpus.texts) == 3
    for words in task.texts:
        assert all(word.score is not None and (not word.marked or word.score < 0.05) for word in words)
    assert all(word.score is None for words in corpus.texts for word in words)
    out = answer(capsys, "marks", run_dir, "--texts", 3)
    assert out == marks.plain([task, corpus]) + "\n"
    assert "\x1b" not in out
    assert all(len(line) <= 80 for line in out.splitlines())
    marked = next(word for words in task.texts for word in words if word.marked)
    assert f"[{marked.text}:{marked.score:.3f}]" in out
    assert answer(capsys, "marks", run_dir, "--texts", 3, "--store", store.url) == out


def test_in_a_terminal_marked_words_are_underlined(finished: tuple[Path, Study, Store]) -> None:
    from rich.console import Console

    found = [MarkedTexts("a", "b", ((Word("good", True, 0.01), Word("[red]film[/red]", False, 0.3)),))]
    console = Console(force_terminal=True, width=80, color_system="standard")
    with console.capture() as shown:
        console.print(marks.coloured(found))
    assert "\x1b[1;4;33mgood\x1b[0m:0.010" in shown.get()
    assert "[red]film[/red]" in shown.get()  # no markup in a text is taken as such


class Page(HTMLParser):
    """Tags and marked words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.inside: list[str] = []
        self.marked: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        assert tag in ("meta",) or not {"src", "href", "onload"} & {name for name, _ in attrs}
        if tag not in ("meta",):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "mark" in self.inside and "rt" not in self.inside:
            self.marked.append(data)


def test_the_page_stands_alone_and_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('&')</script>"
    found = [MarkedTexts(evil, evil, ((Word(evil, True, -0.5), Word(evil, False, None)),))]
    marks.write(found, evil, tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.inside
    assert page.marked == ["marked", evil]
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert "prefers-color-scheme: dark" in text
    assert "underline" in text
    for name in ("page.svg", "page"):
        with pytest.raises(ConfigError, match=r"give a name that ends in .html"):
            marks.write(found, "x", tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give a file that can be written"):
        marks.write(found, "x", tmp_path / "file" / "page.html")


SECTIONS = """<section>
<h2>first</h2>
<p class="description">one &amp; two</p>
<ul>
<li><mark><ruby>a<rt>0.250</rt></ruby></mark> b&lt; <mark>&#34;c&#34;</mark> <ruby>d<rt>-1.000</rt></ruby></li>
<li></li>
</ul>
</section>
<section>
<h2>second</h2>
<p class="description"></p>
<ul>
<li></li>
</ul>
</section>
</body>
</html>
"""


def test_the_page_as_written() -> None:
    words = (Word("a", True, 0.25), Word("b<", False, None), Word('"c"', True, None), Word("d", False, -1.0))
    text = marks.page([MarkedTexts("first", "one & two", (words, ())), MarkedTexts("second", "", ((),))], "mine")
    assert text[text.index("<section>") :] == SECTIONS
    assert text.startswith("<!doctype html>\n<html lang")
    assert text.count("Marked words of mine") == 2


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert marks._printable("a\x1b[31mb\u202e") == "a\ufffd[31mb\ufffd"


def test_the_command_writes_the_page(
    finished: tuple[Path, Study, Store], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert answer(capsys, "marks", finished[0], "--out", tmp_path / "page.html") == f"marks: {tmp_path / 'page.html'}\n"
    assert "Marked words of words" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_no_run_no_marks(finished: tuple[Path, Study, Store], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, said = inside(capsys, "marks", tmp_path)
    assert (code, "no run folder" in said) == (2, True)
    code, _, said = inside(capsys, "marks", finished[0], "--store", tmp_path / "other")
    assert (code, "no marks in" in said and "give it with --store" in said) == (2, True)


def test_neither_torch_nor_ray_is_loaded(finished: tuple[Path, Study, Store]) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted({'torch', 'ray', 'transformers', 'optuna', 'sklearn'} & set(sys.modules))))\n"
        f"from study.cli import main\nmain(['marks', {str(finished[0])!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
