"""csv and tsv: what is read is right, or the fault names the line and a way out that works."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.helpers import write_csv
from tests.trainables.made_tables import ROWS, fault, rows, written
from trainables.data.splits import load_task
from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.tables.swallowed import _rows_with
from trainables.tables.table_files import read_documents, read_file


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (['"so it begins,neg', "fine,pos", '"Enough" was said,neg', "poor,neg"], "line 3: the quote before 'so it begins,neg fine"),
        (["poor,neg", '"so it begins,neg', "fine,pos"], "line 4: the quote before 'so it begins,neg fine,pos' is never closed"),
        (['"abc" def,pos', "poor,neg"], "line 3: the quote before 'abc' is closed on line 3, where 'def,pos"),
        (['"abc" ,pos', "poor,neg"], "line 3: the quote before 'abc' is closed on line 3, where ',pos"),
        (["poor,neg", '"so it begins,neg', "fine,pos", 'the end",neg'], "line 4: a quote opens a text of 3 lines"),
        (['"so it,neg', *["a,pos", "b,neg"] * 4, 'the end",neg'], "line 3: a quote opens a text of 10 lines"),
        ([f'"x{i},y' if i == 0 else f"x{i},y" for i in range(9)] + ['end",other'], "line 3: a quote opens a text of 10 lines"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_rows_that_a_lone_quote_swallows_are_refused_and_read_without_quoting(
    lines: list[str], where: str, delimiter: str, tmp_path: Path
) -> None:
    content = "\n".join(["text,label", "first,pos", *lines]).replace(",", delimiter) + "\n"
    url = written(tmp_path, "a.csv", content)
    assert f"{url}: {where}".replace(",", delimiter) in fault(url, delimiter=delimiter).replace(",", delimiter)
    assert "set `quoting: none`" in fault(url, delimiter=delimiter)
    expected = [tuple(line.replace(",", delimiter).split(delimiter)) for line in ["first,pos", *lines]]
    assert rows(url, delimiter=delimiter, quoting="none") == expected


@pytest.mark.parametrize(
    ("header", "lines"),
    [
        ("label,text", ["pos,fine", 'neg,"so it begins', "pos,good", 'neg,the end"']),
        ("id,text,label", ["1,fine,pos", '2,"so it,neg', "3,good,pos", '4,end",neg', "5,poor,neg"]),
        ("text,label,id", ["fine,pos,1", '"so it,neg,2', "good,pos,3", 'end",neg,4', "poor,neg,5"]),
        ("label, text", ["pos, fine", 'neg,"so it', "pos, good", 'neg, the end"']),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_swallowed_rows_are_found_wherever_the_label_stands(header: str, lines: list[str], end: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", end.join([header, *lines]) + end)
    assert "line 3: a quote opens a text of 3 lines" in fault(url)


def test_swallowed_rows_of_a_corpus_are_told_by_their_numbers(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", 'id,text\n1,fine\n2,"so it\n3,good\n4,the end"\n5,poor\n')
    with pytest.raises(ConfigError, match=r"line 3: a quote opens a text of 3 lines.*save the file as jsonl"):
        read_documents(url)
    genuine = written(tmp_path, "b.csv", 'id,text\n1,fine\n2,"so it\n3 good; 4,the end"\n5,poor\n')
    assert read_documents(genuine)[0] == ["fine", "so it\n3 good; 4,the end", "poor"]


def test_lines_that_look_like_rows_without_a_known_label_are_told(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", 'text,label\nfine,pos\n"it,was\nso bad",neg\n')
    table, notices = read_file(url, ("text", "label"))
    assert table["text"].to_pylist() == ["fine", "it,was\nso bad"]
    said = "line 3: a quote opens a text of 2 lines, each of which looks like a row"
    assert notices == (f"{url}: {said}; set `quoting: none` if they are rows",)


GENUINE = [
    ("It was long, too long\nand the end, well\nno", "neg"),
    ("Good:\n1, the plot\n2, the cast", "pos"),
    ("We waited, and\nleft", "neg"),
    ('He said "no, never"\nand, so it was, "left"', "neg"),
    ("one\r\n\r\ntwo, three\r\n", "pos"),
    ("pos, really\nneg, not", "pos"),
    ("a, b", "neg"),
    ('"', "pos"),
    ("C:\\path\\", "neg"),
    ("-", "pos"),
]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("order", [("text", "label"), ("label", "text"), ("id", "text", "label")])
def test_genuine_texts_of_several_lines_are_read(suffix: str, quoting: Any, order: tuple[str, ...], tmp_path: Path) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if suffix == "tsv" else ",", quoting=quoting)
    writer.writerow(order)
    for i, (text, label) in enumerate(GENUINE):
        writer.writerow([{"text": text, "label": label, "id": i}[name] for name in order])
    url = written(tmp_path, f"a.{suffix}", file.getvalue())
    assert rows(url) == GENUINE
    assert read_file(url, ("text", "label"))[1] == ()


WORDS = (
    "good",
    "film, really",
    '5" pipe',
    '"Enough"',
    'said "no" twice',
    "neg",
    "pos",
    "1",
    "C:\\dir",
    "a\\",
    "it,is",
    "tab\there",
    " ",
)


def test_whatever_the_csv_module_writes_is_read_or_told(tmp_path: Path) -> None:
    random_ = random.Random(3)
    refused = 0
    for _ in range(150):
        texts = ["\n".join(" ".join(random_.choices(WORDS, k=3)) for _ in range(random_.choice([1, 1, 2, 4]))) for _ in range(8)]
        expected = [(text, random_.choice(["neg", "pos"])) for text in texts]
        suffix, delimiter = random_.choice([("csv", ","), ("tsv", "\t")])
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([("text", "label"), *expected])
        url = written(tmp_path, f"a.{suffix}", file.getvalue())
        assert rows(url, quoting="double") == expected
        try:
            assert rows(url) == expected
        except ConfigError:
            refused += 1
    assert refused <= 3


def test_lone_quotes_never_lose_a_row(tmp_path: Path) -> None:
    random_ = random.Random(4)
    read = 0
    for _ in range(150):
        texts = [
            random_.choice(['"', "", ""]) + random_.choice(["good", "so bad", '5" pipe']) + random_.choice(['"', "", ""])
            for _ in range(9)
        ]
        expected = [(text, random_.choice(["neg", "pos"])) for text in texts]
        suffix, delimiter = random_.choice([("csv", ","), ("tsv", "\t")])
        url = written(tmp_path, f"a.{suffix}", "\n".join(map(delimiter.join, [("text", "label"), *expected])))
        assert rows(url, quoting="none") == expected
        try:
            found, (_, notices) = rows(url), read_file(url, ("text", "label"))
        except ConfigError:
            continue
        read += 1
        assert len(found) == 9 or notices
        assert found == expected or suffix == "csv" or notices
    assert read > 50


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('text\tlabel\na 5" pipe\tpos\nsaid "no" twice\tneg\n', [('a 5" pipe', "pos"), ('said "no" twice', "neg")]),
        (
            'text\tlabel\n"so it\tneg\nfine\tpos\n"Enough" was said\tneg\n',
            [('"so it', "neg"), ("fine", "pos"), ('"Enough" was said', "neg")],
        ),
        ('text\tlabel\nfine\tpos\n"so it\tneg\npoor\tneg\n', [("fine", "pos"), ('"so it', "neg"), ("poor", "neg")]),
        (
            'text\tlabel\nfine\tpos\n"so it\tneg\npoor\tpos\nend"\tneg\n',
            [("fine", "pos"), ('"so it', "neg"), ("poor", "pos"), ('end"', "neg")],
        ),
        ('text\tlabel\na \\"b\\"\tpos\nc\tneg\n', [('a \\"b\\"', "pos"), ("c", "neg")]),
    ],
)
def test_quotes_of_a_tsv_that_enclose_nothing_are_text(content: str, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    url = written(tmp_path, "a.tsv", content)
    assert rows(url) == expected
    _, notices = read_file(url, ("text", "label"))
    assert bool(notices) == ('\n"' in content)
    assert all("every quote is read as part of a text" in notice and "set `quoting: none`" in notice for notice in notices)
    assert read_file(url, ("text", "label"), Dialect(quoting="none"))[1] == ()


def test_a_tsv_in_doubt_is_refused_or_told(tmp_path: Path) -> None:
    mixed = written(tmp_path, "a.tsv", 'text\tlabel\n"said ""no"" twice"\tpos\n"so it\tneg\n')
    assert "line 3: the quote before 'so it neg' is never closed" in fault(mixed)
    lines = written(tmp_path, "b.tsv", 'text\tlabel\n"one\ttwo\nthree"\tneg\nfine\tpos\n')
    assert "each of which looks like a row" in fault(lines)
    assert rows(lines, quoting="double") == [("one\ttwo\nthree", "neg"), ("fine", "pos")]
    needless = written(tmp_path, "c.tsv", 'text\tlabel\n"Great"\tpos\nfine\tpos\nbad\tneg\n')
    assert rows(needless)[0] == ("Great", "pos")
    (notice,) = read_file(needless, ("text", "label"))[1]
    assert "such as that on line 2; set `quoting: none` to keep the quotes" in notice


@pytest.mark.parametrize(
    "line", ['"he said \\"fine\\" and left",pos', '"5\\"",pos', 'he said \\"fine\\",pos', '"a \\", b",pos', '"say \\"a\\", b",pos']
)
def test_quotes_behind_backslashes_are_refused_and_read_as_such(line: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", f"text,label\n{line}\nnumber 1,neg\n")
    assert "line 2" in fault(url)
    assert "set `quoting: backslash`" in fault(url)
    text = line.rpartition(",")[0]
    text = (text[1:-1] if text.startswith('"') else text).replace('\\"', '"')
    assert rows(url, quoting="backslash") == [(text, "pos"), ("number 1", "neg")]


def test_backslashes_that_escape_nothing_stay(tmp_path: Path) -> None:
    content = 'text,label\n"C:\\new \\\\ \\"x\\" ""y""",1\na\\,b,2\n"two\\\nlines\\n",3\nplain,4\n'
    url = written(tmp_path, "a.csv", content)
    expected = [('C:\\new \\ "x" "y"', "1"), ("a,b", "2"), ("two\nlines\\n", "3"), ("plain", "4")]
    assert rows(url, quoting="backslash") == expected
    assert "is never closed" in fault(written(tmp_path, "b.csv", 'text,label\n"open \\",1\n'), quoting="backslash")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_line_ends_that_a_database_spelt_out_are_told(suffix: str, tmp_path: Path) -> None:
    delimiter = "," if suffix == "csv" else "\t"
    url = written(tmp_path, f"a.{suffix}", "text,label\nfine,pos\none\\ntwo\\n,neg\n".replace(",", delimiter))
    (notice,) = read_file(url, ("text", "label"))[1]
    assert "not as a line end or a tab (2 in all, first \\n on line 3)" in notice
    assert rows(url)[1] == ("one\\ntwo\\n", "neg")
    assert "(2 in all, first" in read_documents(url)[2][0]
    task = Task(train=write_csv(tmp_path / "more.csv", [("a\\tb", "x"), ("c", "y"), ("d", "x"), ("e", "y")] * 2))
    assert any("first \\t on line 2" in told for told in load_task("mine", task, needs_test=False).notices)


def test_a_space_before_quotes_is_refused(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", 'label,text\npos, "a film"\nneg, "poor"\n')
    assert "line 2: a space stands before the quotes of '\"a film\"'" in fault(url)
    assert rows(url, quoting="double") == [(' "a film"', "pos"), (' "poor"', "neg")]


@pytest.mark.parametrize(
    ("name", "given", "way"),
    [("a.csv", ";", '";"'), ("a.csv", "\t", '"\\t"'), ("a.csv", "|", '"|"'), ("a.tsv", ",", '","'), ("a.tsv", ";", '";"')],
)
def test_another_delimiter_is_named_with_the_way_out(name: str, given: str, way: str, tmp_path: Path) -> None:
    url = written(tmp_path, name, f"text{given}label\nfine{given}pos\npoor{given}neg\n")
    assert "there is no column 'text'" in fault(url)
    assert f"set `delimiter: {way}`" in fault(url)
    assert rows(url, delimiter=given) == ROWS
    other = written(tmp_path, name, f"review{given}stars\nfine{given}1\n")
    assert f"set `delimiter: {way}`" in fault(other), "though the columns have other names, too"


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_by_which_excel_names_its_delimiter(first: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", f"{first}\r\ntext;label\r\nfine, really;pos\r\n")
    assert rows(url) == [("fine, really", "pos")]
    assert "delimiter ',' is set" in fault(url, delimiter=",")
    ragged = written(tmp_path, "b.csv", f"{first}\r\ntext;label\r\nfine;really;pos\r\n")
    assert "line 3: " in fault(ragged)


def test_a_missing_header_is_named(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", "a fine film,pos\npoor,neg\n")
    assert "there is no column 'text' and 'label': the first line, which must be the header, is 'a fine film,pos'" in fault(url)
    spaced = Task(train=write_csv(tmp_path / "b.csv", ROWS, header=("text", " label")))
    with pytest.raises(ConfigError, match="there is no column 'label'; did you mean ' label'"):
        load_task("mine", spaced, needs_test=False)
    twice = Task(train=written(tmp_path, "c.csv", "text,text,label\na,b,c\n"))
    with pytest.raises(ConfigError, match="the column 'text' occurs 2 times"):
        load_task("mine", twice, needs_test=False)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('text,label\n"a\nb",1\n\nc,1,2\n', "line 5: CSV parse error: Row #3: Expected 2 columns, got 3: c,1,2"),
        ("text,label\na\nb,1\n", "line 2: CSV parse error: Row #2: Expected 2 columns, got 1: a"),
        ("text,label\na,1,\nb,1,\n", "the line ends with a delimiter that the header does not end with"),
        ("text,label\ra,1\rb,2,3\r", "line 3: "),
        ("text,label\r\na,1\nb\r\n", "line 3: "),
        ("text,label\na,1\ntext,label\nb,2\n", "row 2 (without the header) repeats the header"),
        ("text,label\na,1\n\ufefftext,label\nb,2\n", "row 2 (without the header) repeats the header"),
        ("text,label\na,1\nb\0c,2\n", "line 3 holds a NUL character"),
        ("text,label\na,1\nb\rc,2\n", "a carriage return ends line 3, where others end with a line feed"),
        ('text,label\r\n"a\rb",1\r\nb\rc,2\r\n', "a carriage return ends line 4, where others"),
    ],
)
def test_the_line_of_a_broken_row_is_named(content: str, where: str, tmp_path: Path) -> None:
    assert where in fault(written(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nfine,pos\npoor,neg\n",
        "text,label\rfine,pos\rpoor,neg",
        "text,label\r\nfine,pos\npoor,neg\r\n",
        "text,label\r\r\nfine,pos\r\r\npoor,neg\r\r\n",
        "\n\ntext,label\n\nfine,pos\n\n\npoor,neg\n\n",
        ",text,label\n0,fine,pos\n1,poor,neg\n",
        "text,label,\nfine,pos,\npoor,neg,\n",
    ],
)
def test_forms_of_lines_that_are_read(content: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", content)
    assert rows(url) == ROWS
    assert read_file(url, ("text", "label"))[1] == ()


def test_carriage_returns_that_end_rows_among_line_feeds_are_told(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", "text\nfine\rpoor\nso so\n")
    table, notices = read_file(url, ("text",))
    assert table.num_rows == 3
    assert notices == (
        f"{url}: 1 carriage returns without a line feed end rows, first on line 2; if they are part of texts, quote these texts",
    )


@pytest.mark.parametrize("header", ['"text","label"', "text,label"])
def test_no_row_is_swallowed_where_every_field_is_quoted(header: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", header + '\n"fine","pos"\n"he said\nfine,pos\npoor,neg\n""so""","neg"\n"","pos"\n')
    assert len(rows(url)) == 3
    assert read_file(url, ("text", "label"))[1] == ()
    lone = written(tmp_path, "b.csv", header + '\nfine,pos\n"he said,pos\nfine,pos\npoor,neg\nit is",neg\n')
    assert "a lone quote?" in fault(lone)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_of_several_lines_are_found_in_any_chunks(kind: pa.DataType) -> None:
    first, second = pa.array(["a\nb", "", None, "x", "\n"], kind), pa.array(["q\n", "z\n\n", "", "n\n"], kind).slice(1)
    assert _rows_with(pa.chunked_array([first, pa.array([], kind), second]), "\n").tolist() == [0, 4, 5, 7]
    assert _rows_with(pa.chunked_array([pa.array([None], kind)]), "\n").tolist() == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['"A lone quote opens', "the second review", 'and the last one ends with one"', "fine"], True),
        (["one", '"two', 'three"'], True),
        (["fine", '"He said ""no""', 'twice"', "poor"], False),  # quotes are doubled by who quotes texts alone
        (['"first', 'text"', '"second"'], False),  # every text is quoted
        (["one", '"two, three"', "four"], False),
    ],
)
def test_rows_of_one_column_that_a_lone_quote_swallows_are_told(lines: list[str], told: bool, tmp_path: Path) -> None:
    _, notices = read_file(written(tmp_path, "a.csv", "\n".join(["text", *lines]) + "\n"), ("text",))
    said = [notice for notice in notices if "a quote opens a text of" in notice]
    assert bool(said) == told
    assert all("`quoting: none` if they are rows" in notice for notice in said)
    if told:
        tsv = written(tmp_path, "a.tsv", "\n".join(["text", *lines]) + "\n")
        with pytest.raises(ConfigError, match="a quote opens a text of"):
            read_file(tsv, ("text",))
        assert read_file(tsv, ("text",), Dialect(quoting="none"))[0].num_rows == len(lines)
