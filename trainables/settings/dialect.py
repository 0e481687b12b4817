"""Dialect of a file with rows: delimiter, quoting and encoding. Imports nothing heavy."""

from __future__ import annotations

import codecs
import encodings.aliases
from dataclasses import dataclass
from typing import Literal

from trainables.settings.errors import ConfigError, near

Quoting = Literal["double", "backslash", "none"]
DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class Dialect:
    """The user's settings for a file; None: determined from the file itself."""

    delimiter: str | None = None
    quoting: Quoting | None = None
    encoding: str | None = None
    settable: bool = True
    """Whether the user can set a dialect for this file; messages suggest it only then."""

    @classmethod
    def of(cls, **options: str | None) -> Dialect:
        """Create it from command-line options. Raises ConfigError with all their faults."""
        faults = []
        for name, check in (("delimiter", delimiter_of), ("encoding", encoding_of)):
            try:
                options[name] = None if options.get(name) is None else check(str(options[name]))
            except ValueError as error:
                faults.append(f"--{name}: {error}")
        if faults:
            raise ConfigError(faults)
        return cls(**options)  # type: ignore[arg-type]

    def way(self, field: str, value: str) -> str:
        """Advice for a message: set a field, or another way out if it cannot be set."""
        if self.settable:
            return f"set `{field}: {value}`"
        return "save the file as UTF-8" if field == "encoding" else "save the file as jsonl, where no character is in doubt"


def options_said(fault: str) -> str:
    """Rewrite a fault of a file on the command line: its advice names options instead of fields."""
    for field in ("delimiter", "quoting", "encoding"):
        head, *parts = fault.split(f"set `{field}: ")
        fault = head + "".join(f"give `--{field} {part}" for part in parts)
        fault = fault.replace(f"set `{field}` to what", f"give `--{field} NAME`, what").replace(f"`{field}`", f"`--{field}`")
    return fault


def delimiter_of(text: str) -> str:
    """The delimiter as a character; a tab may be written as `\\t`. Raises ValueError for characters that cannot be delimiters."""
    text = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(text) != 1 or not text.isascii() or text in '"\\\r\n\0' or text.isalnum():
        raise ValueError(f"{text!r} is not one ASCII character such as ',', ';', '|' or '\\t', and no letter or quote")
    return text


def encoding_of(name: str) -> str:
    """Python's name of a text encoding. Raises ValueError with the near miss for an unknown one."""
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        hint = near(name.lower(), _encodings())
        hint = hint if "did you mean" in hint else "; Python's codecs are allowed, such as utf-8, utf-16, cp1252, latin-1"
        raise ValueError(f"{name!r} is not known{hint}") from None
    if not getattr(codec, "_is_text_encoding", True) or codec.name in ("undefined", "idna", "punycode", "unicode_escape"):
        raise ValueError(f"{name!r} is no encoding of text files; allowed: utf-8, utf-16, cp1252, latin-1, ...")
    return codec.name


def _encodings() -> set[str]:
    known = {name for pair in encodings.aliases.aliases.items() for name in pair}
    return known | {name.replace("_", "-") for name in known} | {"utf-8-sig"}


def dialect_faults(dialect: Dialect, formats: list[str]) -> list[str]:
    """Faults for fields that do not apply to any of a task's file formats."""
    wanted = {
        "delimiter": (dialect.delimiter, ("csv", "tsv")),
        "quoting": (dialect.quoting, ("csv", "tsv")),
        "encoding": (dialect.encoding, ("csv", "tsv", "jsonl", "ndjson", "json", "txt")),
    }
    return [
        f"{field}: {value!r} given, but it applies only to {' and '.join(meant[:3])} files, and there is none"
        for field, (value, meant) in wanted.items()
        if value is not None and not any(kind in (*meant, "zip") for kind in formats)
    ]
