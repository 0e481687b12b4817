"""Files that hold another kind of table than their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainables.made_tables import fault, written
from trainables.settings.errors import ConfigError
from trainables.tables.table_files import read_documents

OBJECTS = '{"text": "fine", "label": 1}\n{"text": "poor, so", "label": 0}\n'


@pytest.mark.parametrize("content", [OBJECTS, "\ufeff\n" + OBJECTS, OBJECTS[:29], OBJECTS.replace("\n", "\r\n"), OBJECTS * 100])
def test_json_lines_of_another_name_are_refused(content: str, tmp_path: Path) -> None:
    for name, kind in (("a.txt", "plain text"), ("a.csv", "csv"), ("a.tsv", "tsv")):
        url = written(tmp_path, name, content)
        with pytest.raises(ConfigError, match=f"is JSON lines, not {kind}; let its name end in .jsonl"):
            read_documents(url)
        if name != "a.txt":
            assert "is JSON lines" in fault(url)


@pytest.mark.parametrize("content", ['[{"text": "fine"},\n {"text": "poor"}]\n', '{\n "text": [\n  "fine"\n ]\n}', '["a", "b"]'])
def test_json_in_plain_text_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is JSON, not plain text"):
        read_documents(written(tmp_path, "a.txt", content))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('text,label\nfine,1\n"poor, so",0\n', "2 columns divided by commas"),
        ("label\ttext\n1\tfine, so\n0\tpoor\n", "2 columns divided by tabs"),
        ("id;review text;stars\r\n1;fine;5\r\n2;poor;1\r\n", "3 columns divided by semicolons"),
        ("Well, I liked it.\nNo, I did not.\nYes, I did.\n", None),
        ("Paris, France\nRome, Italy\nOslo, Norway\n", None),
        ("text\nfine\npoor\n", None),
        ("one,two\nA long, long, line\nNothing\n", None),
        ("{curly} braces\n{more}\n[1] a note\n[2]", None),
        ('{"quoted": "json"} in a sentence\n', None),
        ("[sic]", None),
    ],
)
def test_columns_in_plain_text_are_told(content: str, told: str | None, tmp_path: Path) -> None:
    notices = read_documents(written(tmp_path, "a.txt", content))[2]
    assert [told in notice for notice in notices] == ([True] if told else [])
