"""The result table of a study in every form, with any label."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
import yaml

from analysis.records.run_folder import load, trained_tokens
from analysis.results import cost, final_settings
from analysis.results.final_settings import Finals
from analysis.tables import csv_export, result_table, sentences
from analysis.text import numbers
from tests.analysis.made_records import PAPER, Story, digest, make
from tests.analysis.tables.test_forms import balanced

NASTY = "=cmd|' /C calc'!A0 <script>alert(1)</script> $x_1^2$ \\input{/etc/passwd} | a `b` \x1b[31mred\x1b[0m &amp; 50 % \u202egnp"


def nasty(story: Story) -> None:
    """Give the paper's setting a label with special characters of every form."""
    for seed in range(3):
        name = f"f{90 + seed}"
        story.trial(name, "final", PAPER, seed, NASTY)
    settings = [{"setting": digest(PAPER), "label": NASTY, "params": PAPER, "rank": 1}]
    story.write("selection", settings=settings, k=1, seeds=[0, 1, 2])
    story.write("notice", text=NASTY)


def test_the_table_holds_the_numbers_of_the_records(finished: Path) -> None:
    run = load(finished)
    lines = result_table.lines(Finals(run))
    assert [line.label for line in lines] == ["best 1", "best 2", "papers' setting", "bag of words"]
    tests = [trial.test["error_rate_percent"] for trial in run.finals[:3] if trial.test]
    assert lines[0].test == f"{statistics.fmean(tests):.2f} ± {statistics.stdev(tests):.2f}"
    assert lines[0].chosen
    assert not any(line.chosen for line in lines[1:])
    assert lines[2].kind == "reference"
    assert lines[0].seeds == "3"
    assert lines[3].test == "20.50"
    assert lines[3].over_both == numbers.DASH
    assert lines[3].over_texts == "15.5–26.6"
    assert "pretrain steps 0" in lines[2].settings


def test_a_test_split_that_was_drawn_is_said_below_every_table(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    said = "The test split is a share of 0.2 of the training texts, drawn by class with seed 3."
    assert not any(said[:30] in text for text in sentences.facts(Finals(load(folder))))
    study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    study |= {"tasks": {study["task"]: {"train": "reviews.csv", "test_share": 0.2, "split_seed": 3}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    finals = Finals(load(folder))
    for form in (result_table.result_text, result_table.markdown, result_table.latex):
        assert said in re.sub(r"\s+", " ", form(finals))


def test_the_terminal_table_fits_and_states_how_the_setting_was_chosen(finished: Path) -> None:
    text = result_table.result_text(finished)
    assert max(map(len, text.splitlines())) <= 80
    assert "* best 1" in text
    assert "Chosen on the validation split" in text
    assert "one test text = 0.5 points" in re.sub(r"\s+", " ", text)
    assert "6 complete, 4 stopped early, 1 diverged, 1 failed" in re.sub(r"\s+", " ", text)
    assert "over texts alone Wilson's" in re.sub(r"\s+", " ", text)


def test_a_difference_within_noise_is_marked(tmp_path: Path) -> None:
    def swap(story: Story) -> None:
        (last,) = [row for row in story.rows() if row["event"] == "selection"]
        labels = {1: "best 1", 2: "papers' setting", 3: "other"}
        story.write(
            "selection", settings=[each | {"label": labels[each["rank"]]} for each in last["settings"]], k=2, seeds=[0, 1, 2]
        )

    said = sentences.comparisons(Finals(load(make(tmp_path, edit=swap))))
    assert "the papers' setting, which is within noise (95 % interval" in said[0]
    assert "below the bag of words, which is more than noise" in said[1]


def test_the_search_counts_what_it_trained_on(tmp_path: Path) -> None:
    """As in the table of costs: a repeated setting counts once, one from the store not at all."""

    def again(story: Story) -> None:
        rows = {row["trial"]: row for row in story.rows() if row["event"] == "trial" and row["status"] == "complete"}
        common = ("params", "setting", "label", "seed", "stage_ids", "epochs", "tokens", "error_rate_percent")
        for name, source in (("t090", "computed"), ("t091", "loaded")):  # of one setting
            about = {key: rows["t000"][key] for key in common}
            story.write("trial", trial=name, phase="search", status="complete", source=source, **about)
        about = {key: rows["t000"][key] for key in common} | {"setting": "0" * 8, "stage_ids": ["1" * 32]}
        story.write("trial", trial="t092", phase="search", status="complete", source="loaded", **about)

    run = load(make(tmp_path / "a", trials=4))
    more = load(make(tmp_path / "b", trials=4, edit=again))
    for each in (run, more):
        account = cost.of_study(each)
        assert account is not None
        (part,) = [part for part in account.parts if part.name == "fine-tuning, search"]
        assert trained_tokens(each.search) == part.tokens == sum(trial.tokens for trial in run.search)
    told = sentences.search_summary(more).replace(numbers.NARROW, " ")
    assert told.startswith("The search: 7 trials of 5 different settings (")
    assert f"{numbers.count_text(trained_tokens(run.search))} tokens of fine-tuning, 2 from the store" in told
    assert "different" not in sentences.search_summary(run)


def test_a_difference_without_interval_is_no_finding() -> None:
    gap = final_settings.Difference(-3.0, None, "the number of test texts is unknown")
    assert "which is undecided (the number" in sentences.verdict(gap, "b")


def test_one_seed_invents_no_spread(tmp_path: Path) -> None:
    run = load(make(tmp_path, seeds=1))
    line = result_table.lines(Finals(run))[0]
    assert "±" not in line.test
    assert line.over_both == numbers.DASH
    assert line.over_texts != numbers.DASH
    assert any("One seed only" in text for text in sentences.missing(Finals(run)))
    assert "undecided (one seed" in sentences.comparisons(Finals(run))[0]


def test_labels_cannot_break_the_terminal(tmp_path: Path) -> None:
    text = result_table.result_text(make(tmp_path, edit=nasty))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_labels_cannot_break_markdown(tmp_path: Path) -> None:
    text = result_table.markdown(Finals(load(make(tmp_path, edit=nasty))))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert not re.search(r"(?<!\\)<script", text)


def test_labels_cannot_break_latex(tmp_path: Path) -> None:
    text = result_table.latex(Finals(load(make(tmp_path, edit=nasty))))
    assert "\\input{" not in text
    balanced(text)


def test_latex_has_booktabs_rules_and_every_setting(finished: Path) -> None:
    text = result_table.latex(Finals(load(finished)))
    for rule in ("toprule", "midrule", "bottomrule"):
        assert f"\\{rule}" in text
    assert "\\textbf{best 1}" in text
    assert "$\\pm$" in text
    assert "95 \\%" in text


def test_csv_has_a_row_per_evaluation_with_its_settings(finished: Path) -> None:
    run = load(finished)
    rows = list(csv.DictReader(io.StringIO("".join(csv_export.results_csv(run)))))
    assert len(rows) == len(run.of("evaluation")) + len(run.of("baseline"))
    first = next(row for row in rows if row["trial"] == "t000")
    assert float(first["param.finetune.learning_rate"]) == 2e-5
    assert first["param.finetune.truncation"] == "head+tail"
    assert first["trial_status"] == "complete"
    trials = list(csv.DictReader(io.StringIO(csv_export.trials_csv(run))))
    assert [row["trial"] for row in trials] == [trial.name for trial in run.trials]
    failed = next(row for row in trials if row["status"] == "failed")
    assert failed["validation_error_rate_percent"] == ""
    assert "OSError" in failed["reason"]


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1+1", "\x1b[0m=1"])
def test_csv_holds_no_formula(tmp_path: Path, start: str) -> None:
    def edit(story: Story) -> None:
        story.write("trial", trial="t900", phase="search", status="failed", reason=start, params={"=path": start}, label=start)
        story.write("evaluation", trial="t900", split="validation", mcc=-0.5, stage_name=start)

    run = load(make(tmp_path, part="started", edit=edit))
    for text in ("".join(csv_export.results_csv(run)), csv_export.trials_csv(run)):
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and cell != "-0.5"]
    assert "-0.5" in "".join(csv_export.results_csv(run))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"part": "started"}, "No trial has begun."),
        ({"part": "search"}, "No final is complete"),
        ({"part": "search", "only_failures": True}, "No trial of the search is complete. Reasons given: OSError"),
        ({"part": "finals"}, "no setting is chosen yet"),
        ({"part": "selected"}, "Test scores of some finals are missing."),
        ({"baseline": False}, "There is no bag of words"),
    ],
)
def test_every_form_lists_what_is_missing(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    run = load(make(tmp_path, **changes))
    assert said in " ".join(sentences.missing(Finals(run)))
    assert said.split()[-1].strip(".") in result_table.result_text(Finals(run))
    assert result_table.markdown(Finals(run)).startswith("# quickstart")
    assert result_table.latex(Finals(run)).endswith("\\end{table}\n")
    assert "".join(csv_export.results_csv(run)).count("\n") >= 1


def test_an_empty_file_is_a_run_that_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"")
    assert "No trial has begun." in result_table.result_text(tmp_path)


def test_foreign_lines_are_counted_in_the_report(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with open(folder / "records.jsonl", "a") as file:
        file.write('{"event": "telemetry"}\nnonsense\n')
    assert any(text.startswith("2 line(s) of the records could not be used") for text in sentences.missing(Finals(load(folder))))


def test_labels_in_a_sentence() -> None:
    names = ["papers' setting", "best 1", "best 1, papers' setting"]
    assert [sentences.named(name) for name in names] == ["the papers' setting", "best 1", "best 1 (papers' setting)"]


def test_numbers_as_text() -> None:
    counts = (812, 999.6, 52_400, 157_200, 999_700, 1_160_000, 2.5e9, 1.4e12)
    assert list(map(numbers.count_text, counts)) == ["812", "1 k", "52.4 k", "157 k", "1 M", "1.16 M", "2.5 G", "1.4 T"]
    assert numbers.count_text(52_400, numbers.NARROW) == "52.4\xa0k"
    assert [numbers.duration(s).replace("\xa0", " ") for s in (0.42, 42, 190, 7500)] == [
        "0.4 s",
        "42 s",
        "3 min 10 s",
        "2 h 05 min",
    ]
    assert [numbers.signed(v) for v in (-1.26, 0.04, 2.0)] == ["−1.3", "0.0", "+2.0"]
    assert numbers.spread([]) == numbers.DASH


@pytest.mark.parametrize(("words", "told"), [(None, "TF-IDF, "), ("words", "TF-IDF, "), ("characters", "TF-IDF of characters, ")])
def test_the_table_describes_the_bag_of_words(finished: Path, tmp_path: Path, words: str | None, told: str) -> None:
    path = finished / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    told_in = [row | ({"words": words} if row["event"] == "baseline" else {}) for row in rows]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told_in), encoding="utf-8")
    (line,) = [line for line in result_table.lines(Finals(load(tmp_path))) if line.label == "bag of words"]
    assert line.settings == f"{told}logistic regression, C 10"
