"""Archives, encodings, and files that are something else than their names say."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from tests.trainables.made_tables import ROWS, fault, parquet_of, rows, written
from trainables.settings.dialect import Dialect, encoding_of
from trainables.settings.errors import ConfigError
from trainables.tables.table_files import read_documents, read_file

TEXTS = [("grün – “naïve”", "pos"), ("poor", "neg")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str, suffix: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in TEXTS]
    delimiter = "\t" if suffix == "tsv" else ","
    content = "\n".join(lines) if suffix == "jsonl" else "\n".join(map(delimiter.join, [("text", "label"), *TEXTS]))
    url = written(tmp_path, f"a.{suffix}", content.encode(encoding))
    assert rows(url) == TEXTS
    assert read_documents(url)[0] == [text for text, _ in TEXTS]


def test_an_encoding_is_set_or_named_as_the_way_out(tmp_path: Path) -> None:
    content = "text,label\n" + "\n".join(map(",".join, TEXTS))
    url = written(tmp_path, "a.csv", content.encode("cp1252"))
    assert "byte 0xfc at offset 13 (line 2); save the file as UTF-8, or set `encoding: cp1252`" in fault(url)
    assert rows(url, encoding="cp1252") == TEXTS
    assert rows(url, encoding=encoding_of("windows-1252")) == TEXTS
    with pytest.raises(ConfigError, match=r"line 2\); save the file as UTF-8$"):
        read_documents(url)
    unmarked = written(tmp_path, "c.csv", ("text,label\n" + "poor,neg\n" * 5).encode("utf-16-le"))
    assert "set `encoding: utf-16-le`" in fault(unmarked)
    assert rows(unmarked, encoding="utf-16-le") == [("poor", "neg")] * 5
    mine = written(tmp_path, "d.csv", content)
    for other in ("cp1252", "latin-1", "iso8859-15"):
        assert "leave `encoding` out" in fault(mine, encoding=encoding_of(other))
    assert "is UTF-8" in fault(written(tmp_path, "e.csv", "text,label\na,pos\nb,neg\n"), encoding="utf-16")
    assert "not shift_jis: byte" in fault(mine, encoding="shift_jis")
    assert "is another `encoding` meant?" in fault(url, encoding="shift_jis")


LATIN = ["Das Café in Köln war schön.", "Ça va, mon élève? À bientôt!", "El niño dijo: “¿qué?” – ¡sí!", "don’t"]
POLISH, RUSSIAN, CHINESE, JAPANESE = "Zażółć gęślą jaźń, ósmą", "Очень хороший фильм", "这部电影非常好看", "とても良い映画でした"


@pytest.mark.parametrize(
    ("texts", "encoding", "way"),
    [
        *((LATIN[i : i + 1] * 3, "cp1252", "or set `encoding: cp1252`") for i in range(len(LATIN))),
        ([*["plain English all through"] * 50, LATIN[0]], "latin-1", "or set `encoding: cp1252`"),
        ([POLISH] * 3, "cp1250", f"(not cp1252, by which it is no text; by cp1250 it begins '{POLISH};pos')"),
        ([POLISH] * 3, "iso8859-2", "(not cp1252, by which it is no text)"),
        ([RUSSIAN, "a text in English"] * 3, "cp1251", f"; by cp1251 it begins '{RUSSIAN};pos')"),
        ([RUSSIAN] * 3, "koi8-r", f"; by koi8_r it begins '{RUSSIAN};pos')"),
        ([CHINESE, "a text in English"] * 3, "gb18030", f"; by gb18030 it begins '{CHINESE};pos')"),
        ([CHINESE] * 3, "gbk", f"; by gb18030 it begins '{CHINESE};pos')"),
        (["這部電影非常好看"] * 3, "big5", "; by big5 it begins '這部電影非常好看;pos')"),
        (["이 영화는 정말 재미있었어요"] * 3, "euc-kr", "; by cp949 it begins '이 영화는 정말 재미있었어요;pos')"),
        ([JAPANESE] * 3, "euc-jp", f"; by euc_jp it begins '{JAPANESE};pos')"),
        ([JAPANESE] * 3, "shift_jis", f"; by cp932 it begins '{JAPANESE};pos')"),
        ([LATIN[1]] * 3, "mac-roman", "(not cp1252, by which it is no text)"),
        ([CHINESE] * 3, "utf-16-le", "set `encoding: utf-16-le`"),
        ([RUSSIAN] * 3, "utf-16-be", "set `encoding: utf-16-be`"),
        (["fine"] * 3, "utf-16-be", "set `encoding: utf-16-be`"),
    ],
)
def test_the_encoding_that_is_named_gives_no_garbage(texts: list[str], encoding: str, way: str, tmp_path: Path) -> None:
    content = "text;label\n" + "\n".join(f"{text};pos" for text in texts)
    found = fault(written(tmp_path, "a.csv", content.encode(encoding)), delimiter=";")
    assert way in found, found


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"gr\xc3\xbcn,pos"] * 9 + [b"caf\xe9,neg"], "(line 11): the rest is UTF-8, so 1 line is damaged"),
        (
            [b"\xe2\x80\x9cgood\xe2\x80\x9d,pos"] * 9 + [b"\xe2\x80,neg", b"\xff,neg"],
            "(line 11): the rest is UTF-8, so 2 lines are",
        ),
        (["好,pos".encode()] * 3 + ["好".encode()[:2]], "(line 5): the rest is UTF-8"),  # cut off
    ],
)
def test_a_damaged_byte_is_no_other_encoding(lines: list[bytes], said: str, tmp_path: Path) -> None:
    found = fault(written(tmp_path, "a.csv", b"\n".join([b"text,label", *lines])))
    assert said in found
    assert "set `encoding" not in found


@pytest.mark.parametrize(
    "content", ["模模模拟".encode("gb18030"), b"gr\xc3\xbcn\ncaf\xc3\xa9\nna\xefve"], ids=["gb18030", "damaged"]
)
def test_few_characters_leave_open_whether_a_file_is_damaged(content: bytes, tmp_path: Path) -> None:
    found = fault(written(tmp_path, "a.csv", b"text,label\n" + content + b",pos"))
    assert ": 1 line is damaged, or the file is in another encoding; save the file as UTF-8, or set `encoding` to what" in found
    assert "cp1252" not in found


def test_an_encoding_that_makes_control_characters_is_refused(tmp_path: Path) -> None:
    url = written(tmp_path, "a.csv", "text,label\nfine,pos\n“good”,pos\n".encode("cp1252"))
    assert "line 3: as iso8859-1 it holds the control character '\\x93'" in fault(url, encoding=encoding_of("latin-1"))
    assert "set `encoding: cp1252`" in fault(url, encoding=encoding_of("latin-1"))
    russian = written(tmp_path, "b.csv", f"text,label\n{RUSSIAN},pos\n".encode("cp866"))
    assert "is another `encoding` meant?" in fault(russian, encoding=encoding_of("latin-1"))
    fine = written(tmp_path, "c.csv", "text,label\ncafé,pos\n".encode("latin-1"))
    assert read_file(fine, ("text", "label"), Dialect(encoding="iso8859-1"))[1] == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("caf\ufffd, na\ufffdve", "2 characters were lost before the file was written (U+FFFD, first on line 2)"),
        ("\x93good\x94", "2 control characters such as '\\x93' (line 2)"),
        ("\U000e1234\u0378\ue123" * 3, "9 characters that Unicode does not assign"),
        ("grün – “naïve” 好 ❤️ 👩‍👩‍👧 a\x85b \ue000", None),
    ],
)
def test_characters_that_were_lost_or_misread_are_told(text: str, told: str | None, tmp_path: Path) -> None:
    names = {
        "a.csv": f'text,label\n"{text}",pos\n',
        "a.jsonl": "\n" + json.dumps({"text": text}, ensure_ascii=False),
        "a.txt": "\n" + text,
    }
    for name, content in names.items():
        url = written(tmp_path, name, content)
        notices = read_documents(url)[2]
        assert [told in notice for notice in notices] == ([True] if told else []), (name, notices)


@pytest.mark.parametrize("folder", [".", "data.csv", "sub"])
def test_a_folder_is_called_one(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    assert "is a folder; give a file" in fault(f"{tmp_path}/{folder}")


CONTENT = "text,label\nfine,pos\npoor,neg\n"


def zipped(**members: str | bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a.csv.zip", {"a.csv": CONTENT}),
        ("a.csv.zip", {"data/": "", "data/deep/train.csv": CONTENT}),
        ("a.csv.zip", {"__MACOSX/._a.csv": "x", "a.csv": CONTENT, "._b.csv": "x", "data/.DS_Store": "x", "Thumbs.db": "x"}),
        ("a.csv.zip", {"README.md": "x", "licence.txt": "x", "a.csv": CONTENT}),
        ("a.csv.zip", {"a.tsv": CONTENT.replace(",", "\t")}),
        ("a.csv.zip", {"a.csv.gz": gzip.compress(CONTENT.encode())}),
        ("a.csv.zip", {"a": CONTENT}),
        ("archive.zip", {"a.csv": CONTENT}),
        ("A.CSV.ZIP", {"A.CSV": CONTENT}),
        ("a.csv.zip", {"inner.zip": zipped(**{"a.csv": CONTENT})}),
    ],
)
def test_the_one_table_of_a_zip_is_read(name: str, members: dict[str, str | bytes], tmp_path: Path) -> None:
    url = written(tmp_path, name, zipped(**members))
    assert rows(url) == ROWS
    assert read_documents(url)[0] == ["fine", "poor"]


def test_zips_that_cannot_be_read_say_what_they_hold(tmp_path: Path) -> None:
    two = zipped(**{"part1.csv": CONTENT, "part2.csv": CONTENT})
    assert "the zip holds 2 files of texts (part1.csv, part2.csv), but one is read" in fault(written(tmp_path, "a.csv.zip", two))
    assert "holds 2 files of texts (a.csv, b.tsv)" in fault(written(tmp_path, "a.csv.zip", zipped(**{"a.csv": "x", "b.tsv": "y"})))
    none = zipped(**{"x.png": "x", "readme.md": "y"})
    assert "holds none of csv, tsv, jsonl, ndjson, json, parquet (x.png, readme.md)" in fault(written(tmp_path, "b.csv.zip", none))
    assert "it is empty" in fault(written(tmp_path, "c.csv.zip", zipped()))
    secret = bytearray(zipped(**{"a.csv": CONTENT}))
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        secret[secret.index(mark) + (6 if mark[2] == 3 else 8)] |= 1
    assert "a.csv in the zip is encrypted" in fault(written(tmp_path, "d.csv.zip", bytes(secret)))
    broken = zipped(**{"a.csv": CONTENT}).replace(b"fine", b"bine", 1)
    assert "a.csv in the zip cannot be read: Bad CRC-32" in fault(written(tmp_path, "e.csv.zip", broken))
    assert "not a zip archive" in fault(written(tmp_path, "f.csv.zip", CONTENT))
    txt = written(tmp_path, "g.txt.zip", zipped(**{"a.txt": "one\ntwo", "notes.md": "x"}))
    assert read_documents(txt) == (["one", "two"], "one a line", ())
    with pytest.raises(ConfigError, match=r"2 files of texts \(a.txt, b.txt\)"):
        read_documents(written(tmp_path, "h.txt.zip", zipped(**{"a.txt": "x", "b.txt": "y"})))


def test_a_gz_of_several_parts_is_whole_and_one_with_rubbish_is_refused(tmp_path: Path) -> None:
    first, second = gzip.compress(CONTENT[:17].encode()), gzip.compress(CONTENT[17:].encode())
    assert rows(written(tmp_path, "a.csv.gz", first + second)) == ROWS
    assert "cannot be read: " in fault(written(tmp_path, "b.csv.gz", first + b"rubbish"))
    assert "cannot be read: " in fault(written(tmp_path, "c.csv.gz", first[:-4]))
    assert "is packed by gzip" in fault(written(tmp_path, "d.csv.gz", gzip.compress(first)))


def test_every_compression_is_read(tmp_path: Path) -> None:
    raw = CONTENT.encode()
    zst = pa.compress(raw, "zstd", asbytes=True)
    for suffix, content in {"gz": gzip.compress(raw), "bz2": bz2.compress(raw), "xz": lzma.compress(raw), "zst": zst}.items():
        assert rows(written(tmp_path, f"a.csv.{suffix}", content)) == ROWS
        assert f"let its name end in .{suffix}" in fault(written(tmp_path, "a.csv", content))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_what_is_not_packed_as_its_name_says_is_refused(suffix: str, tmp_path: Path) -> None:
    assert "cannot be read: " in fault(written(tmp_path, f"a.csv.{suffix}", CONTENT))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (zipped(**{"a.csv": CONTENT}), "is a zip archive; let its name end in .zip"),
        (zipped(**{"[Content_Types].xml": "", "xl/workbook.xml": ""}), "is an Excel workbook; save it as csv there"),
        (gzip.compress(CONTENT.encode(), mtime=0), "is packed by gzip; let its name end in .gz"),
        (parquet_of(text=["x"], label=["y"]), "is a parquet file; let its name end in .parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel workbook"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a page of HTML"),
        (b"<HTML>\n", "is a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a pointer of Git LFS"),
        (b"%PDF-1.7", "is a PDF"),
        (b"SQLite format 3\0", "is an SQLite database"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_is_something_else_is_called_by_its_name(content: bytes, what: str, name: str, tmp_path: Path) -> None:
    assert what in fault(written(tmp_path, name, content))


def test_a_pointer_in_place_of_parquet_or_text(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "pointer of Git LFS" in fault(written(tmp_path, "a.parquet", pointer))
    with pytest.raises(ConfigError, match="pointer of Git LFS"):
        read_documents(written(tmp_path, "a.txt", pointer))
    assert read_documents(written(tmp_path, "b.txt", "<html> is a tag\nmore"))[0] == ["<html> is a tag", "more"]
