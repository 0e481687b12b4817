"""Read YAML as plain data: text fields stay as written; tags, anchors and duplicate keys are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from trainables.settings.base import holds_text
from trainables.settings.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Loader for plain data: no tags, no anchors (an alias bomb is small on disk and huge in memory), no duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        if getattr(event, "anchor", None) is not None:
            raise ConfigError([f"{where}: anchors and aliases (& and *) are not allowed"])
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError([f"{where}: the YAML tag {tag!r} is not allowed; a study file is plain data"])
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError([f"line {key.start_mark.line + 1}: the name of a field is a list or mapping"])
            if key.value in seen:
                raise ConfigError([f"line {key.start_mark.line + 1}: {key.value!r} is given twice"])
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 2e-5 as a string, but it is always meant as a number.
FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$")


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+$|0[bx]|[^:]*:)")
_STR, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def _as_written(node: yaml.Node | None, path: str, in_list: bool = False) -> None:
    """Keep text as written, where YAML 1.1 would convert no, 012, 1_000 and 2020-01-01.

    Applies to names of fields and values of text fields; null stays null except in a list of names.
    """
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _STR
                _as_written(value, f"{path}.{key.value}")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _as_written(item, path, in_list=True)
    elif isinstance(node, yaml.ScalarNode) and holds_text(path) and (node.tag != _NULL or (in_list and node.value)):
        node.tag = _STR
    elif isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _OTHER_BASE.match(node.value):
        where = f"line {node.start_mark.line + 1}"
        raise ConfigError(
            [f"{where}: {node.value} is not a decimal number; YAML 1.1 would read it in another base: write it in decimal"]
        )


def parse_yaml(text: str, source: str = "input", path: str = "") -> Any:
    """Parse YAML to plain data; `path` is the place of the value in the study file. Raises ConfigError for anything else."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _as_written(node, path)
        return None if node is None else loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{source}: {fault}" for fault in error.faults) from None
    except RecursionError:
        raise ConfigError([f"{source}: nested too deeply"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{source}: not YAML: {' '.join(str(error).split())}"]) from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file as plain data. Raises ConfigError that names the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    return parse_yaml(text, str(path))
