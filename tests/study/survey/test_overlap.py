"""`study overlap`: sources of every kind, the table, the data and the heat map."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from study.survey.overlap import MOST, Overlap, compare, show, svg
from tests.helpers import write_csv
from tests.study.tiny import answer, fits, inside
from trainables.settings.errors import ConfigError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    (tmp_path / "plain.txt").write_text("Film and plot\r\n\nfilm, the actor\n", encoding="utf-8")
    table = write_csv(tmp_path / "table.csv", [("film plot", "x"), ("camera", "y")], header=("body", "kind"))
    return [str(tmp_path / "plain.txt"), table]


def test_files_with_and_without_columns(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "overlap", *sources, "--text", "body", "--top", 3, "--json"))
    assert [each["name"] for each in found["sources"]] == ["plain.txt", "table.csv"]
    assert [(each["texts"], each["unigrams"]) for each in found["sources"]] == [(2, 3), (2, 3)]
    # {film, plot, actor} and {film, plot, camera}
    assert found["percent"] == [[100, pytest.approx(200 / 3)], [pytest.approx(200 / 3), 100]]
    assert found["fewer_than_top"] == []
    jaccard = json.loads(answer(capsys, "overlap", *sources, "--text", "body", "--form", "jaccard", "--json"))
    assert jaccard["percent"] == [[100, 50], [50, 100]]
    assert jaccard["fewer_than_top"] == ["plain.txt", "table.csv"]


def test_how_files_are_written_is_an_option(tmp_path: Path, sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes("body;kind\nnaïve film;x\nfine\\nplot;y\n".encode("cp1252"))
    arguments = ("overlap", path, sources[0], "--text", "body")
    code, _, err = inside(capsys, *arguments, "--encoding", "cp1252")
    assert (code, 'give `--delimiter ";"`' in err) == (2, True)
    out = answer(capsys, *arguments, "--encoding", "cp1252", "--delimiter", ";")
    assert fits(out)
    assert "first \\n on" in out
    code, _, err = inside(capsys, "overlap", sources[0], sources[0], "--delimiter", ";;", "--encoding", "utf9")
    assert (code, "--delimiter: ';;' is not one" in err, "--encoding: 'utf9' is not known" in err) == (2, True, True)
    code, _, err = inside(capsys, "overlap", sources[0], sources[0], "--delimiter", ";")
    assert (code, "--delimiter: ';' given, but it applies only to csv and tsv files, and there is none" in err) == (2, True)


def test_tasks_give_their_training_texts(capsys: pytest.CaptureFixture[str]) -> None:
    out = answer(capsys, "overlap", "sls_imdb", "sls_yelp", "--top", 500)
    assert fits(out)
    assert "sls_imdb: " in out
    assert "in 796 texts" in out
    assert "note" not in out
    assert "note: fewer than 10,000 unigrams in sls_imdb, sls_yelp" in answer(capsys, "overlap", "sls_imdb", "sls_yelp")


def test_scripts_without_spaces_are_told(sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "汉.txt").write_text("这家餐厅的汤很好喝\n今天很冷 film\n", encoding="utf-8")
    given = (*sources, str(tmp_path / "汉.txt"), "--text", "body")
    out = answer(capsys, "overlap", *given, "--top", 1)
    assert "note: written without spaces: 汉.txt; two adjacent characters count as a" in out
    assert fits(out)
    found = json.loads(answer(capsys, "overlap", *given, "--json"))
    assert found["character_pairs"] == ["汉.txt"]
    assert found["sources"][2]["unigrams"] == 8 + 3 + 1


@pytest.mark.parametrize("count", [2, 9, 12, 13, MOST])
def test_the_table_fits_80_columns(count: int) -> None:
    names = tuple(f"a source with a rather long name, {i}" for i in range(count))
    percent = tuple(tuple(100.0 if i == j else 12.3 for j in range(count)) for i in range(count))
    found = Overlap(names, (1_000_000,) * count, (9_999,) * count, "paper", 10_000, percent)
    out = show(found)
    assert fits(out)
    assert all(name in out for name in names[:2])
    assert out.count("100") >= count


def test_the_heat_map_is_whole_and_can_be_read_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "map.svg"
    answer(capsys, "overlap", "sls_imdb", "sls_yelp", "sls_amazon", "--out", out)
    root = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    assert root.get("role") == "img"
    named = (root.get("aria-labelledby") or "").split()
    assert [element.tag for place in named for element in root.iter() if element.get("id") == place] == [
        f"{SVG}title",
        f"{SVG}desc",
    ]
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert texts.count("sls_amazon") == 2
    found = compare(["sls_imdb", "sls_yelp", "sls_amazon"])
    values = [text for text in texts if text.replace(".", "").isdigit()]
    assert values == [f"{value:.1f}" for row in found.percent for value in row]
    assert f"sls_imdb and sls_yelp {found.percent[0][1]:.1f} %" in (root.findtext(f"{SVG}desc") or "")
    assert "http" not in re.sub("http://www.w3.org/(2000/svg|1999/xlink)", "", out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("count", [2, MOST])
def test_the_heat_map_has_every_value_on_its_colour(count: int) -> None:
    names = tuple(f"the {i}th of <several> & $sources$, 汉" for i in range(count))
    percent = tuple(tuple(100.0 * (i + j) / (2 * count - 2) for j in range(count)) for i in range(count))
    text = svg(Overlap(names, (9,) * count, (9,) * count, "paper", 10_000, percent, names[:1]))
    root, values = ElementTree.fromstring(text), [value for row in percent for value in row]
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    shown = [each for each in root.iter(f"{SVG}text") if re.fullmatch(r"\d+\.\d", each.text or "")]
    assert [each.text for each in shown] == [f"{value:.1f}" for value in values]
    assert [("fill: #ffffff" in (each.get("style") or "")) for each in shown] == [value > 60 for value in values]
    (cells,) = (each for each in root.iter(f"{SVG}g") if "QuadMesh" in (each.get("id") or ""))
    fills = [re.findall(r"fill: #(\w+)", each.get("style") or "")[0] for each in cells.iter(f"{SVG}path")]
    for fill, value in zip(fills, values, strict=True):
        blend = [light + (dark - light) * value / 100 for light, dark in zip((247, 251, 255), (8, 48, 107), strict=True)]
        assert list(bytes.fromhex(fill)) == pytest.approx(blend, abs=1.01)
    turned = [each.get("transform") or "" for each in root.iter(f"{SVG}text") if each.text in names]
    ends = [re.findall(r"[\d.]+", each)[:2] for each in turned if "rotate(-90)" in each]
    assert len(ends) == count
    assert all(float(x) < width and float(y) < height for x, y in ends), "names stand within the picture"


def test_control_characters_of_names_do_not_break_the_heat_map() -> None:
    root = ElementTree.fromstring(svg(Overlap(("a\x07\nb", "c"), (1, 1), (1, 1), "paper", 1, ((100, 0), (0, 100)))))
    assert [each.text for each in root.iter(f"{SVG}text")].count("a b") == 2


def test_names_are_escaped_and_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x<&.txt").write_text("film", encoding="utf-8")
    found = compare([str(tmp_path / folder / "x<&.txt") for folder in ("a", "b")])
    assert len(set(found.names)) == 2
    ElementTree.fromstring(svg(found))


def test_wrong_input_is_named_all_at_once(tmp_path: Path, sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n\n", encoding="utf-8")
    for arguments, faults in [
        (["sls_imbd", "sls_yelp"], ["'sls_imbd' is neither a known task nor a file; did you mean 'sls_imdb'?"]),
        (["sls_imdb"], ["1 sources given; it compares 2 to 18"]),
        (
            [blank, *sources, tmp_path / "missing.txt"],
            ["blank.txt: the file is empty", "table.csv: there is no column 'text'", "missing.txt: there is no such file"],
        ),
        (["sls_imdb", "sls_yelp", "--top", 0], ["--top"]),
        (["sls_imdb", "sls_yelp", "--form", "papr"], ["papr"]),
        (["sls_imdb", "sls_yelp", "--out", tmp_path / "map.png"], ["map.png: the heat map is SVG"]),
        (["sls_imdb", "sls_yelp", "--out", blank / "map.svg"], ["map.svg: "]),
        ([], ["Missing argument"]),
    ]:
        code, out, err = inside(capsys, "overlap", *arguments)
        assert (code, out) == (2, "")
        for fault in faults:
            assert fault in err
    with pytest.raises(ConfigError, match="19 sources given"):
        compare(["sls_imdb"] * 19)
