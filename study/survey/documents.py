"""Write the documents that are generated from code, as `make docs` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from analysis.records import record_fields
from study.definition import recipes, reference
from study.survey import encoders, tasks

DOCUMENTS: dict[str, Callable[[], str]] = {
    "study-file.md": reference.document,
    "records.md": record_fields.document,
    "tasks.md": tasks.document,
    "recipes.md": recipes.document,
    "encoders.md": encoders.document,
}
"""{file in docs/: function that returns its text}."""


def write(folder: Path) -> None:
    """Write every document into a folder."""
    for name, document in DOCUMENTS.items():
        (folder / name).write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
