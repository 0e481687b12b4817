"""Local paths of a study made absolute, so that they mean the same in every process and in the copy that a run folder keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainables.config import Encoder
from trainables.corpus_names import is_local
from trainables.stages import Pretrain


def with_absolute_paths(parts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sections of a study with paths that are relative to `folder` made absolute."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or "://" in path else str(folder / Path(os.path.expanduser(path)))

    def located(settings: Any, names: Iterable[str]) -> Any:
        return settings.model_copy(update={name: absolute(getattr(settings, name)) for name in names})

    encoder: Encoder = parts["encoder"]
    if encoder.package is None:
        # A tokenizer may also be a name on the hub.
        is_local_tokenizer = encoder.tokenizer is not None and (folder / encoder.tokenizer).exists()
        encoder = located(encoder, ("folder", "tokenizer") if is_local_tokenizer else ("folder",))
    tasks = {name: located(task, ("train", "validation", "test", "folder")) for name, task in parts["tasks"].items()}
    corpora = _corpora(parts, lambda entry: absolute(entry) if is_local(entry) else entry)
    return {**parts, "tasks": tasks, "encoder": encoder, "store": absolute(parts["store"]), **corpora}


def _corpora(parts: Mapping[str, Any], absolute: Callable[[str], str | None]) -> dict[str, Any]:
    """Recipe, space and search, whose corpora name text files by absolute paths."""

    def moved(value: Any) -> Any:
        return tuple(map(absolute, value)) if isinstance(value, list | tuple) else value

    def chosen(path: str, dimension: Any) -> Any:
        if path not in paths or dimension.choice is None:
            return dimension
        return dimension.model_copy(update={"choice": tuple(map(moved, dimension.choice))})

    recipe, search = parts["recipe"], parts["search"]
    paths = {f"{stage.name}.corpus" for stage in recipe if isinstance(stage, Pretrain)}
    points = [{path: moved(value) if path in paths else value for path, value in point.items()} for point in search.first]
    return {
        "recipe": tuple(
            each.model_copy(update={"corpus": moved(each.corpus)}) if isinstance(each, Pretrain) else each for each in recipe
        ),
        "space": {path: chosen(path, dimension) for path, dimension in parts["space"].items()},
        "search": search.model_copy(update={"first": tuple(points)}),
    }
