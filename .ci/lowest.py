"""Print the lowest versions that pyproject.toml promises as constraints of pip, one a line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LOWEST = re.compile(r"([\w.-]+)(?:\[[^]]*\])?>=([\d.]+)")


def lowest(pyproject: Path) -> dict[str, str]:
    """{package: lowest version} of every requirement that has one, those of the extras among them."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    given = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return {found[1]: found[2] for each in given if (found := LOWEST.match(each))}


if __name__ == "__main__":
    for name, version in sorted(lowest(Path(__file__).parent.parent / "pyproject.toml").items()):
        print(f"{name}=={version}")
