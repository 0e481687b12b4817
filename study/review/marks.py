"""`study marks`: show the words that a run marked as important and those that selective masking chose, as text or as a page.

Reads the artifacts of the run's stages in the store. Needs neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.records import record
from trainables.settings.errors import ConfigError
from trainables.store.artifact_files import CHOSEN, MARKS

if TYPE_CHECKING:
    from rich.text import Text

    from trainables.store.store import Artifact, Store

WIDTH = 80
LEGEND = "marked words are underlined; numbers are scores: a low score means that the text's class depends on the word"
PLAIN_LEGEND = (
    "marked words are in brackets, with their score if they have one: a low score means that the text's class depends on the word"
)


class Word(NamedTuple):
    """A word of a text."""

    text: str
    marked: bool
    score: float | None
    """S of Gu et al. 2020; None for words of a corpus, which have none."""


@dataclass(frozen=True)
class MarkedTexts:
    """Texts of one artifact with their marks."""

    title: str
    description: str
    texts: tuple[tuple[Word, ...], ...]


def load(run_dir: Path, store: str | None = None, most: int = 20) -> list[MarkedTexts]:
    """Return at most `most` texts of every artifact of the run that has marks. Raises ConfigError if there is none."""
    from study.definition.study_file import load_study
    from trainables.store.store import Store

    rows, _ = record.read(run_dir / "records.jsonl")
    if not rows:
        raise ConfigError([f"{run_dir}: no run folder (there are no records in it)"])
    url = store or load_study(run_dir / "study.yaml").store
    artifacts = Store(url) if url else Store.default()
    groups = [_marked_texts(artifact, most) for artifact in _with_marks(rows, artifacts)]
    if not groups:
        why = "no stage of this run has stored any, or its store is another one: then give it with --store"
        raise ConfigError([f"{run_dir}: no marks in {artifacts.url}: {why}"])
    return groups


def _with_marks(rows: Sequence[record.Row], store: Store) -> Iterator[Artifact]:
    """Yield the artifacts of the run that have marks, in the order of its records; of a trajectory only the first milestone."""
    ids = [row["stage_id"] for row in rows if row["event"] == "stage"]
    ids += [stage_id for row in rows if row["event"] == "trial" for stage_id in row.get("stage_ids") or ()]
    seen = set()
    for stage_id in dict.fromkeys(ids):
        artifact = store.get(stage_id, digests=False)
        if artifact is None or not (artifact.has(MARKS) or artifact.has(CHOSEN)):
            continue
        settings = artifact.manifest["settings"] | {"steps": None}
        key = json.dumps([settings, artifact.manifest["parent"]] + ([stage_id] if artifact.has(MARKS) else []), sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield artifact


def _marked_texts(artifact: Artifact, most: int) -> MarkedTexts:
    import pyarrow.parquet as pq

    file, settings = MARKS if artifact.has(MARKS) else CHOSEN, artifact.manifest["settings"]
    table = pq.read_table(artifact.path(file))
    rows = table.slice(0, most).to_pylist()
    texts = tuple(
        tuple(
            Word(_printable(word), marked, score)
            for word, marked, score in zip(
                row["words"], row["marked"], row.get("scores") or [None] * len(row["words"]), strict=True
            )
        )
        for row in rows
    )
    share = f"{len(texts)} of {table.num_rows} texts"
    if file == CHOSEN:
        description = f"at most {settings['mask_share']:.0%} of a sequence; {share} that are kept as examples"
        return MarkedTexts(f"{settings['name']}: masked words of the corpus", description, texts)
    best = max(row["mark_f1"] for row in artifact.manifest["rows"])
    chosen_by = f"threshold {settings['threshold']:g}, stop words {settings['stop_words']}"
    description = f"{chosen_by}; best F1 on held-out texts {best:.3f}; {share} that have scores"
    return MarkedTexts(f"{settings['name']}: words of the task's training texts", description, texts)


def _printable(word: str) -> str:
    """Replace characters that would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in word)


# On the terminal -----------------------------------------------------------------------------------------------------------------


def plain(groups: Sequence[MarkedTexts]) -> str:
    """Format as text of 80 columns, marked words in brackets."""
    lines = wrap(PLAIN_LEGEND, WIDTH)
    for group in groups:
        lines += ["", group.title, *wrap(group.description, WIDTH), ""]
        for words in group.texts:
            text = " ".join(f"[{word.text}{_scored(word)}]" if word.marked else word.text for word in words)
            lines += wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _scored(word: Word) -> str:
    return "" if word.score is None else f":{word.score:.3f}"


def coloured(groups: Sequence[MarkedTexts]) -> Text:
    """Format for a terminal, marked words underlined and in colour."""
    from rich.text import Text

    text = Text().append(LEGEND + "\n", style="dim")
    for group in groups:
        text.append(f"\n{group.title}\n", style="bold").append(f"{group.description}\n\n")
        for words in group.texts:
            text.append("- ")
            for word in words:
                text.append(word.text, style="bold underline yellow" if word.marked else "")
                text.append(f"{_scored(word) if word.marked else ''} ")
            text.append("\n")
    return text


# The page ------------------------------------------------------------------------------------------------------------------------


def page(groups: Sequence[MarkedTexts], name: str) -> str:
    """Return a self-contained HTML page; every text in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.render(groups=groups, name=name, legend=LEGEND.capitalize())


def write(groups: Sequence[MarkedTexts], name: str, path: Path) -> None:
    """Write the page. Raises ConfigError for a path that is not HTML or cannot be written."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError([f"--out {path}: the marks are a page; give a name that ends in .html"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(groups, name), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out {path}: {error.strerror or error}; give a file that can be written"]) from None


def name_of(run_dir: Path) -> str:
    """Return the name of the study in a run folder."""
    rows: list[Any] = record.read(run_dir / "records.jsonl")[0]
    return str(next((row["study"] for row in rows if row.get("study")), run_dir.name))
