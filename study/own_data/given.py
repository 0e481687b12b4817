"""What the options on own data say, and the task that they describe: its sources, and the name of the study."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.settings.corpus_names import WORDS
from trainables.settings.errors import ConfigError, near
from trainables.settings.file_names import TABLES, is_file, is_plain_text, own_name

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("dataset_dict.json", "state.json")
"""Files in a folder that `datasets` saved: with several splits, with one."""
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "dev", "data", "all")
"""Names of files that say nothing about their content: the name of their folder is taken instead."""


@dataclass(frozen=True)
class Given:
    """The options of the command line on own data, as given."""

    data: tuple[str, ...]
    """Files, a folder saved by `datasets`, or the name of a data set on the hub."""
    test: str | None = None
    """File with the test split, or the name of a split of the folder or data set."""
    validation: str | None = None
    """The same for the validation split."""
    text: tuple[str, ...] = ()
    text_pair: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    encoder: str | None = None
    name: str | None = None
    """Name of the study; None: from the name of the data."""
    dialect: Mapping[str, str | None] = field(default_factory=dict)
    """Fields of a task on the format of csv and tsv files."""

    @property
    def options(self) -> str:
        """The options as typed in a shell, without the name."""
        return _joined([("data", self.data), *self._others()])

    def with_columns(self, **columns: tuple[str, ...]) -> str:
        """The options with these columns, as typed in a shell: what to type next."""
        others = [(name, values) for name, values in self._others() if name not in columns]
        return _joined([("data", self.data), *columns.items(), *others])

    def _others(self) -> list[tuple[str, tuple[str | None, ...]]]:
        names = {"test": (self.test,), "validation": (self.validation,), "text": self.text, "text-pair": self.text_pair}
        dialect = {name: (value,) for name, value in self.dialect.items()}
        return [*{**names, "label": self.label, "encoder": (self.encoder,), **dialect}.items()]


def _joined(options: list[tuple[str, tuple[str | None, ...]]]) -> str:
    return " ".join(f"--{name} {_quoted(value)}" for name, values in options for value in values if value is not None)


def _quoted(value: str) -> str:
    """A value as typed in a shell, in one line: other signs than printable ones are escaped, as in `$'a\U0000000ab'`."""
    if value.isprintable():
        return shlex.quote(value)
    escaped = (f"\\U{ord(sign):08x}" if not sign.isprintable() or sign in "\\'" else sign for sign in value)
    return f"$'{''.join(escaped)}'"


def source_fields(given: Given) -> dict[str, Any]:
    """Fields of a task that name its sources. Raises ConfigError for what is no data, and for more than one file."""
    if len(given.data) > 1:
        raise ConfigError(_several(given.data))
    (data,) = given.data
    if not data.strip():
        raise ConfigError([f"--data {data!r}: no name of a file"])
    path = Path(os.path.expanduser(data))
    if path.is_dir():
        fields = _folder(data, path)
    elif is_plain_text(data):
        raise ConfigError([f"--data {data}: plain text has no labels; give a table: {', '.join(TABLES)}"])
    elif path.exists() or is_file(data) or "://" in data:
        if not path.exists() and "://" not in data:
            raise ConfigError([f"--data {data}: there is no such file{_near_file(path)}"])
        return {"train": data} | {split: value for split in ("validation", "test") if (value := getattr(given, split))}
    elif _HUB.fullmatch(data):
        fields = {"hub": data}
    else:
        what = "neither a file, a folder, nor the name of a data set on the hub (OWNER/NAME)"
        raise ConfigError([f"--data {data}: {what}{_near_file(path)}"])
    return fields | {f"{split}_split": value for split in ("validation", "test") if (value := getattr(given, split))}


def _several(data: tuple[str, ...]) -> list[str]:
    """Refuse several files: a task has one file per split."""

    def first(*starts: str) -> str | None:
        return next((file for file in data if own_name(file).lower().startswith(starts)), None)

    held = {"test": first("test"), "validation": first("valid", "dev")}
    rest = [file for file in data if file not in held.values()]
    meant = _joined([("data", tuple(rest)), *((split, (file,)) for split, file in held.items())])
    clear = any(held.values()) and len(rest) == 1
    way = f"; did you mean {meant}?" if clear else "; join the files, or give --test and --validation"
    return [f"--data: {len(data)} files given, but a task has one file for each of train, validation and test{way}"]


def _folder(data: str, path: Path) -> dict[str, Any]:
    if any((path / name).exists() for name in _SAVED):
        return {"folder": data}
    tables = sorted(name for name in os.listdir(path) if is_file(name) and not is_plain_text(name))
    there = f"; it holds {', '.join(tables[:8])}: give one, such as --data {shlex.quote(str(path / tables[0]))}" if tables else ""
    raise ConfigError([f"--data {data}: a folder, but not one that `datasets` saved{there}"])


def _near_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return ""
    hint = near(path.name, [name for name in os.listdir(folder) if is_file(name)])
    return hint if "did you mean" in hint else ""


def study_name(given: Given) -> str:
    """Name of the study: letters, digits and dashes, from the name of the file, or of its folder where that says more."""
    if given.name is not None:
        if re.fullmatch(r"[\w][\w.-]*", given.name):
            return given.name
        raise ConfigError([f"--name {given.name!r}: letters, digits, `_`, `-` and `.` only, since files are named after it"])
    data = given.data[0].rstrip("/").partition("?")[0]
    names = [re.sub(r"(\.[A-Za-z]+)+$", "", own_name(data))]
    names += [Path(os.path.abspath(os.path.expanduser(data))).parent.name] if "://" not in data else []
    slugs = [slug for name in names if (slug := re.sub(r"[^\w-]+", "-", name).strip("-_"))]
    chosen = next((slug for slug in slugs if slug.lower() not in _SPLITS), "my-texts")
    return f"{chosen}-texts" if chosen in WORDS else chosen


def beside(given: Given) -> list[str]:
    """Names of files beside the data that look like its other splits and are not used."""
    path = Path(os.path.expanduser(given.data[0]))
    used = {os.path.realpath(file) for file in (given.data[0], given.test, given.validation) if file}
    if not path.is_file():
        return []
    held = re.compile(r"(test|valid|dev)", re.IGNORECASE)
    return [
        name
        for name in sorted(os.listdir(path.parent))
        if held.match(name) and is_file(name) and os.path.realpath(path.parent / name) not in used
    ]
