"""Names with special characters are escaped in every form of a report."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from analysis.pages import ablation_page
from analysis.results.claims import verdicts
from analysis.results.ledger import Ledger
from analysis.results.read_ablation import ledger
from analysis.tables import forms
from analysis.tables.published_layout import layout
from analysis.text.plain import CONTROL
from study.review import status
from tests.analysis.ablations import TABLE2, build, wrong
from tests.analysis.tables.test_forms import balanced

HOSTILE = (
    "<script>alert(1)</script>",
    "</code></pre><img src=x onerror=alert(1)>",
    "=cmd()",
    "@SUM(A1)",
    "\x1b[31mred\x1b]0;title\x07",
    "a | b",
    "`code` **b** [a](javascript:x)",
    r"$x_1$ \input{/etc/passwd} 100% #1 ~ ^ & {",
    "two\nlines\r\n% more",
    "\u202eturned\u2066 \u200f",
    "x" * 10_000,
    "{{ 7 * 7 }}{% raw %}",
    "--option 'quoted' \"twice\" $(id)",
)
NAMES = some.sampled_from(HOSTILE) | some.text(min_size=1, max_size=30).filter(str.strip)


ONCE = (Phase.explicit, Phase.generate)  # to make a failing example smaller would take minutes


class Tags(HTMLParser):
    """Names of the tags of a page, and whether any has a handler."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def plain_tags(tmp_path_factory: pytest.TempPathFactory) -> Tags:
    """Return the tags of the page of a harmless run."""
    return Tags(page(made(tmp_path_factory.mktemp("plain") / "run", dict.fromkeys(FIELDS, "name"))))


FIELDS = ("row", "column", "task", "title", "note", "reason")
Forms = dict[str, Callable[[Ledger], str]]
FORMS: Forms = {
    "txt": lambda found: forms.text(found, layout(found), verdicts(found)),
    "md": lambda found: forms.markdown(found, layout(found), verdicts(found)),
    "tex": lambda found: forms.latex(found, layout(found), verdicts(found)),
    "csv": lambda found: forms.csv(found, layout(found)),
    "provenance": forms.provenance_csv,
    "json": lambda found: forms.as_json(found, layout(found), verdicts(found)),
}


def page(found: Ledger) -> str:
    return ablation_page.page(
        found, layout(found), verdicts(found), [], ablation_page.cell_details(found), ablation_page.compared_details(found)
    )


def made(folder: Path, names: dict[str, str]) -> Ledger:
    """Write a run with these texts in all fields that users choose, {one of FIELDS: text}."""
    first: dict[str, Any] = {"row": names["row"] + "1"}
    second: dict[str, Any] = {"row": names["row"] + "2", "column": names["column"]}
    about = TABLE2 | dict.fromkeys(("name", "title", "scale", "command"), names["title"])
    about |= {"notes": [names["note"]], "changes": [names["note"]], "says": names["note"]}
    about |= {"tasks": {"imdb": {"known": names["task"], "published": names["task"]}}, "settings": [first, second]}
    about |= {"claims": [{"says": names["note"], "better": dict(first), "worse": dict(second)}]}
    label = f"{second['row']} | {second['column']}"
    outcomes = {("imdb", first["row"]): [wrong(8, seed, 4, 20) for seed in range(2)], ("imdb", label): ["failed", "diverged"]}
    build(folder, about, outcomes)  # type: ignore[arg-type]
    records = folder / "imdb" / "records.jsonl"
    reason = json.dumps(names["reason"])
    records.write_text(records.read_text().replace('"OSError: disk"', reason), encoding="utf-8")
    return ledger(folder)


@settings(max_examples=20, phases=ONCE, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(names=some.fixed_dictionaries(dict.fromkeys(FIELDS, NAMES)))
def test_names_stay_text_in_every_form(tmp_path_factory: pytest.TempPathFactory, plain_tags: Tags, names: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    found = made(folder, names)
    texts = {name: form(found) for name, form in FORMS.items()} | {"html": page(found), "status": status.show(folder)}
    for name, text in texts.items():
        assert not CONTROL.search(text), name
        assert len(text) < 1_000_000, name
    tags = Tags(texts["html"])
    assert set(tags.tags) == set(plain_tags.tags)
    assert tags.tags.count("script") == plain_tags.tags.count("script")
    assert tags.handlers == plain_tags.handlers
    balanced(re.sub(r"^\\providecommand.*$", "", texts["tex"], flags=re.MULTILINE))
    assert not re.search(r"\\(input|write|def)", re.sub(r"^%.*$", "", texts["tex"], flags=re.MULTILINE))
    for name in ("csv", "provenance"):
        rows = list(csv.reader(io.StringIO(texts[name])))
        assert len({len(row) for row in rows}) == 1
        assert not [
            cell for row in rows for cell in row if cell[:1] in tuple("=+@-|%") and not re.fullmatch(r"-?\d+(\.\d+)?", cell)
        ]
    heads = [line for line in texts["md"].splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in heads}) == 1
    assert not re.search(r"(?<!\\)[<`\[]", texts["md"])
    assert len(json.loads(texts["json"])["cells"]) == 2
    assert max(map(len, texts["txt"].splitlines())) <= 80
