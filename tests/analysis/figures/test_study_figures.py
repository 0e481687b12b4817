"""Figures of a study: reproducible bytes, unique ids on a page, colours of the page, every status by shape."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from analysis.figures import study_figures
from analysis.figures.svg import Figure
from analysis.pages.study_page import draw
from analysis.records.run_folder import Run, load
from analysis.results.final_settings import Finals
from analysis.stats.importance import importance
from tests.analysis.made_records import Story, make


@pytest.fixture(scope="module")
def drawn(large: Path) -> dict[str, Figure]:
    run = load(large)
    return draw(Finals(run), importance(run.search, run.space))


def test_all_figures_are_there(drawn: dict[str, Figure]) -> None:
    assert list(drawn) == ["result", "curves", "finals", "history", "budget", "importance", *(f"dimension-{i}" for i in range(5))]


def test_ids_do_not_collide_on_one_page_and_all_references_resolve(drawn: dict[str, Figure]) -> None:
    ids: list[str] = []
    for figure in drawn.values():
        own = re.findall(r'\bid="([^"]+)"', figure.inline)
        refs = re.findall(r'href="#([^"]+)"', figure.inline) + re.findall(r"url\(#([^)]+)\)", figure.inline)
        assert set(refs) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_figures_are_valid_xml_with_title_and_description(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        root = ElementTree.fromstring(figure.svg)
        assert root.find("{http://www.w3.org/2000/svg}title").text == figure.title  # type: ignore[union-attr]
        assert root.find("{http://www.w3.org/2000/svg}desc").text  # type: ignore[union-attr]
        assert figure.caption
        assert "<metadata" not in figure.svg
        assert "<style" not in figure.svg
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", figure.svg)


def test_the_page_gets_variables_and_files_get_colours(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        assert "var(--fg)" in figure.inline
        assert "var(" not in figure.svg
        assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id|href)="[^"]*"|url\([^)]*\)', "", figure.inline))
        assert "DejaVu" not in figure.inline


def test_text_stays_text(drawn: dict[str, Figure]) -> None:
    assert ">validation error, %<" in drawn["history"].svg


def test_every_status_has_a_shape_of_its_own() -> None:
    looks = [(marker, filled) for _, marker, filled, _ in study_figures.MARKS.values()]
    assert len(set(looks)) == len(looks)
    assert len({(marker, style) for _, marker, style in study_figures.SERIES}) == len(study_figures.SERIES)


def test_every_trial_is_a_mark_with_a_tip(large: Path, drawn: dict[str, Figure]) -> None:
    tips = re.findall(r"<title>(t\d+): ", drawn["history"].svg)
    assert sorted(tips) == sorted(trial.name for trial in load(large).search)
    assert "diverged: Diverged: the gradient norm of step 41 is nan" in drawn["history"].svg


def test_a_log_dimension_has_a_log_axis_and_a_category_has_strips(drawn: dict[str, Figure]) -> None:
    assert "(log axis)" in drawn["dimension-0"].svg
    assert ">2e-5<" in drawn["dimension-0"].svg
    assert ">head+tail<" in drawn["dimension-2"].svg
    assert "trials do not have it" in drawn["dimension-3"].caption


def test_the_same_run_gives_the_same_bytes(finished: Path) -> None:
    run = load(finished)
    once, twice = (figure.svg for figure in (study_figures.history(run), study_figures.history(run)) if figure)
    assert once == twice


def test_matplotlib_gets_the_same_figure_and_keeps_its_settings(large: Path, drawn: dict[str, Figure]) -> None:
    before = dict(matplotlib.rcParams)
    canvas = drawn["history"].canvas()
    assert dict(matplotlib.rcParams) == before
    (axes,) = canvas.axes
    assert axes.get_ylabel() == "validation error, %"
    assert sum(len(marks.get_offsets()) for marks in axes.collections) == len(load(large).search)
    assert canvas._repr_png_().startswith(b"\x89PNG")


def test_mathematics_and_markup_in_labels_stay_text(tmp_path: Path) -> None:
    def edit(story: Story) -> None:
        params = {"finetune.truncation": "$\\frac{1}{0$ <b>&", "finetune.learning_rate": 2e-5}
        story.write("trial", trial="t900", phase="search", status="complete", params=params, error_rate_percent=9.0)

    run = load(make(tmp_path, part="search", edit=edit))
    figure = study_figures.dimension(run, 2)
    assert figure is not None
    assert "&lt;b&gt;&amp;" in figure.svg


def test_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    run = load(make(tmp_path, part="started"))
    assert [each(Finals(run)) for each in (study_figures.result, study_figures.finals)] == [None] * 2
    assert [each(run) for each in (study_figures.curves, study_figures.history, study_figures.budget)] == [None] * 3
    assert study_figures.dimension(run, 0) is None


def searched(*trials: tuple[str, float | None], sampler: str = "random", metric: str | None = None) -> Run:
    """A run whose search has these trials: (status, loss on validation)."""
    rows: list[dict[str, object]] = [{"event": "plan", "metric": metric}] if metric else []
    for number, (status, error) in enumerate(trials):
        value = {"objective_percent": error, "metric": metric} if metric else {"error_rate_percent": error}
        rows.append({"event": "trial", "trial": f"t{number:03d}", "phase": "search", "status": status} | value)
    return Run(Path("/nowhere"), rows, [], {"search": {"sampler": sampler}})


def test_the_budget_curve_agrees_with_random_draws() -> None:
    values = [12.0, 9.0, 15.0, 10.0]
    drawn = np.random.default_rng(0).choice(values, (200_000, 4)).min(axis=1)
    for metric, turned in ((None, lambda loss: loss), ("macro_f1", lambda loss: 100 - loss)):
        found = study_figures.budget(searched(*(("complete", value) for value in values), metric=metric))
        assert found is not None
        first, last = map(float, re.findall(r"(\d+\.\d+) %", found.description))
        assert first == turned(np.mean(values))
        assert last == pytest.approx(turned(drawn.mean()), abs=0.02)
        assert found.caption.endswith("one standard deviation of it (band).")  # nothing to excuse
    assert "validation macro-F1, %" in found.svg


def test_the_budget_figure_states_its_limits() -> None:
    trials = [("complete", 9.0), ("stopped", 20.0), ("diverged", None), ("complete", 10.0)]
    found = study_figures.budget(searched(*trials, sampler="tpe"))
    assert found is not None
    assert "best of 3 trials" in found.description  # without the one that has no value
    for part in ("the sampler learns", "One was stopped early and counts with the last value", "1 without a result is left out."):
        assert part in found.caption
    assert study_figures.budget(searched(("complete", 9.0))) is None
    assert study_figures.budget(searched(("stopped", 9.0), ("stopped", 8.0))) is None
    assert study_figures.budget(searched(("complete", 9.0), ("complete", 9.0))) is not None
    many = study_figures.budget(searched(*(("complete", 10.0 + i % 50) for i in range(1000))))
    assert many is not None
    assert "(log axis)" in many.svg
