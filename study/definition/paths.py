"""Convert the local paths of a study: to absolute ones for every process, and to portable ones for the copy in the run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.text.places import without_credentials
from study.definition.models import Study, corpora
from study.definition.space import setting_id
from trainables.settings.corpus_names import is_local_file
from trainables.settings.encoder import Encoder
from trainables.settings.pretraining import Pretrain


def with_absolute_paths(parts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the sections of a study with paths relative to `folder` made absolute."""

    def absolute(path: str) -> str:
        joined = folder / os.path.expanduser(path)
        plain = os.path.normpath(joined)
        return plain if os.path.realpath(plain) == os.path.realpath(joined) else str(joined)

    return {**parts, **_with_paths(parts, folder, absolute)}


def portable(study: Study, run_dir: Path) -> Study:
    """Return the study as stored in its run folder: paths relative to that folder if both share a parent, `~` for the home folder.

    So both can be moved together, and the file names no home folder. Other paths stay absolute; the store's address has no
    password.
    """
    moved = _with_paths({name: getattr(study, name) for name in SECTIONS}, run_dir, lambda path: outward(path, run_dir))
    return study.model_copy(update=moved | {"store": moved["store"] and without_credentials(moved["store"])})


def outward(path: str, folder: Path) -> str:
    """Return an absolute path as written in a file of `folder`: relative if both share a parent other than a home or top folder."""
    folder, home = folder.absolute(), Path(os.path.expanduser("~"))
    relative, common = os.path.relpath(path, folder), Path(os.path.commonpath([path, folder]))
    if Path(path).is_relative_to(home):
        together = common.is_relative_to(home) and common != home
    else:
        together = len(common.parts) > LEAST_PARTS
    if together and os.path.realpath(folder / relative) == os.path.realpath(path):
        return relative
    return f"~/{Path(path).relative_to(home)}" if Path(path).is_relative_to(home) and home != Path("/") else path


SECTIONS = ("encoder", "tasks", "store", "recipe", "space", "search")
"""Sections that hold paths."""
LEAST_PARTS = 2
"""Number of parts in the path of a top folder, shared by all users: `/data`, `/tmp`."""


def _with_paths(parts: Mapping[str, Any], folder: Path, change: Callable[[str], str]) -> dict[str, Any]:
    """The sections that hold paths, with `change` applied to local paths."""

    def changed(path: str | None) -> str | None:
        return path if path is None or "://" in path else change(path)

    def located(settings: Any, names: Iterable[str]) -> Any:
        return settings.model_copy(update={name: changed(getattr(settings, name)) for name in names})

    encoder: Encoder = parts["encoder"]
    if encoder.package is None:
        # A tokenizer may also be a name on the hub.
        name = encoder.tokenizer or ""
        is_local_tokenizer = name.startswith((".", "/", "~")) or (name and (folder / name).exists())
        encoder = located(encoder, ("folder", "tokenizer") if is_local_tokenizer else ("folder",))
    tasks = {name: located(task, ("train", "validation", "test", "folder")) for name, task in parts["tasks"].items()}
    corpora = _corpora(parts, lambda entry: changed(entry) if is_local_file(entry) else entry)
    return {"tasks": tasks, "encoder": encoder, "store": changed(parts["store"]), **corpora}


def _corpora(parts: Mapping[str, Any], change: Callable[[str], str | None]) -> dict[str, Any]:
    """Recipe, space and search, with `change` applied to the entries of corpora."""

    def moved(value: Any) -> Any:
        return tuple(map(change, value)) if isinstance(value, list | tuple) else value

    def chosen(path: str, dimension: Any) -> Any:
        if path not in paths or dimension.choice is None:
            return dimension
        return dimension.model_copy(update={"choice": tuple(map(moved, dimension.choice))})

    recipe, search = parts["recipe"], parts["search"]
    paths = {f"{stage.name}.corpus" for stage in recipe if isinstance(stage, Pretrain)}
    points = [{path: moved(value) if path in paths else value for path, value in point.items()} for point in search.first]
    return {
        "recipe": tuple(
            stage.model_copy(update={"corpus": moved(stage.corpus)}) if isinstance(stage, Pretrain) else stage for stage in recipe
        ),
        "space": {path: chosen(path, dimension) for path, dimension in parts["space"].items()},
        "search": search.model_copy(update={"first": tuple(points)}),
    }


# In records ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Renaming:
    """Replaces the names of searched text files in records, and the hashes of the settings that contain them."""

    entries: Mapping[str, str]
    """{entry of a corpus: its replacement}"""
    settings: dict[str, str] = field(default_factory=dict)
    """{hash of a setting: its hash after the replacement}, for all settings seen so far."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record with the replacements; a setting's hash is known after the first record with its parameters."""
        changed = dict(row)
        if isinstance(row.get("params"), Mapping):
            changed["params"] = {path: self._replaced(value) for path, value in row["params"].items()}
            if row.get("setting"):
                self.settings[row["setting"]] = setting_id(changed["params"])
        if "settings" in row:
            changed["settings"] = [self(setting) for setting in row["settings"]]
        if row.get("setting"):
            changed["setting"] = self.settings.get(row["setting"], row["setting"])
        return changed

    def _replaced(self, value: Any) -> Any:
        return [self.entries.get(entry, entry) for entry in value] if isinstance(value, list | tuple) else value


def in_place(study: Study, run_dir: Path, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], Renaming]:
    """Return (records of a run folder with the study's own paths, the conversion of a record for the folder).

    Records name searched text files as `portable` does.
    """
    files = {entry: outward(entry, run_dir) for entry in filter(is_local_file, corpora(study.recipe, study.space))}
    files = {entry: written for entry, written in files.items() if entry != written}
    if not files:
        return list(rows), Renaming({})
    read = Renaming({written: entry for entry, written in files.items()})
    here = list(map(read, rows))
    return here, Renaming(files, {mine: theirs for theirs, mine in read.settings.items()})
