"""Write a fine-tuned model as a folder: weights, configuration and tokenizer as transformers has them, the head, a description.

    config.json, model.safetensors    transformers' classifier of the family, or its plain encoder where the head is none of its own
    tokenizer.json, ...               the tokenizer, with the trained length
    head.safetensors                  the head as it was trained
    model.onnx                        if wanted: transformers' classifier for other runtimes (onnx_file.py)
    study_model.json                  settings, labels, digests (description.py)
    README.md                         the model card

The folder is written aside, loaded and compared with the trained model, and renamed: it is there whole or not at all. What a killed
process left aside is removed by the next export into the same folder.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError

from trainables.batches.tokenise import tokenizer_digest
from trainables.encoder.weights import quiet
from trainables.export import onnx_file, plain
from trainables.export.description import CARD, FILE, HEAD, Description, facts
from trainables.export.load import LoadedModel, load
from trainables.settings.errors import ConfigError
from trainables.stages.state_files import saved

Card = Callable[[Description], str]
"""Text of the model card, from the description of the model."""


def write(model: LoadedModel, folder: Path, card: Card, force: bool = False, onnx: bool = False) -> Description:
    """Write a model, which is on the CPU, into a new or empty folder; `force` replaces an earlier export. Returns its description.

    `onnx`: with `model.onnx`. Raises ConfigError before anything is written if the folder holds anything else, and if it cannot be
    written, or not as ONNX: an earlier export is then left as it was.
    """
    check_place(folder, force)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid4().hex[:8]}.new")
    try:
        aside.mkdir(parents=True)
        with _locked(aside):
            described = _fill(model, aside, card, onnx)
            _compare(model, aside)
            _put_in_place(aside, folder)
        _remove_leftovers(folder)
    except (OSError, SafetensorError) as error:
        raise ConfigError([f"{folder}: {_reason(error)}; nothing was changed there"]) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return described


def check_place(folder: Path, force: bool) -> None:
    """Raise ConfigError unless the folder is missing or empty, or with `force` holds an earlier export and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError([f"{folder}: exists and is no folder; give another"])
    there = {entry.name for entry in folder.iterdir()}
    if there and FILE not in there:
        raise ConfigError([f"{folder}: not empty, and it holds no exported model; give another folder"])
    if there and not force:
        raise ConfigError([f"{folder}: holds an exported model already; --force replaces it"])
    if foreign := sorted(there - _written(folder)):
        raise ConfigError([f"{folder}: holds what no export wrote: {', '.join(foreign[:5])}; give another folder"])


def _written(folder: Path) -> set[str]:
    """Names of what an earlier export wrote into a folder, by its description, also where files were altered since."""
    try:
        files = set(json.loads((folder / FILE).read_bytes())["files"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        files = set()
    return {FILE, CARD, *(name for name in files if isinstance(name, str) and (folder / name).is_file())}


def _fill(model: LoadedModel, folder: Path, card: Card, onnx: bool) -> Description:
    """Write all files. The description is the last."""
    tokenizer = tokenizer_of(model)
    with quiet():
        theirs, reason = plain.expressed(model, tokenizer)
        if theirs is not None:
            theirs.save_pretrained(folder)  # type: ignore[operator]
        else:
            encoder, state = plain.encoder_of(model)
            encoder.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
    if onnx:
        if theirs is None:
            raise ConfigError([f"--format onnx: it needs a head that transformers has: {reason}; leave --format out"])
        onnx_file.write(theirs, tokenizer, model, folder / onnx_file.FILE)
    head = {name: value for name, value in model.model.named_parameters() if not name.startswith("encoder.")}
    saved(head, folder / HEAD)
    files = {path.name: facts(path) for path in sorted(folder.iterdir())}
    content = model.described.model_dump() | {"plain": theirs is not None, "reason": reason, "files": files}
    described = Description.model_validate(content)
    (folder / CARD).write_text(card(described), encoding="utf-8")
    (folder / FILE).write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes files that only their owner reads
        _flush(path)
    return described


def tokenizer_of(model: LoadedModel) -> Any:
    """A copy of the tokenizer with the trained length, which cuts at the trained side. Its pieces are the same."""
    tokenizer, stage = copy.deepcopy(model.base.tokenizer), model.described.finetune
    tokenizer.model_max_length = stage.max_length
    tokenizer.truncation_side = tokenizer.init_kwargs["truncation_side"] = "left" if stage.truncation == "tail" else "right"
    tokenizer.name_or_path = ""
    names, special = list(tokenizer.model_input_names), model.base.special
    types = [
        *special.prefix_types,
        *special.suffix_types,
        special.text_type,
        *sum(special.pair.types, ()),
        *special.pair.text_types,
    ]
    if model.base.takes_types and any(types) and "token_type_ids" not in names:
        # Some tokenizers, such as XLNet's, give them only on request; the encoder was trained with them.
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = [*names, "token_type_ids"]
    return tokenizer


def _flush(path: Path) -> None:
    """Wait until the disk has a file: what is renamed must be whole also after a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _compare(model: LoadedModel, folder: Path) -> None:
    """Raise RuntimeError unless what was written gives the same logits and pieces when it is loaded."""
    written, texts = load(folder, "cpu"), plain.sample(model)
    if tokenizer_digest.__wrapped__(written.base.tokenizer) != tokenizer_digest.__wrapped__(model.base.tokenizer):
        raise RuntimeError("the tokenizer that was written divides texts in another way than the one of the study")
    if (worst := float(np.abs(written.logits(texts) - model.logits(texts)).max())) > plain.TOLERANCE:
        raise RuntimeError(f"the model that was written gives other logits than the trained one: they differ by {worst:g}")


def _put_in_place(aside: Path, folder: Path) -> None:
    """Rename the new folder; an earlier export is put aside first and removed at last."""
    before = folder.with_name(f"{aside.name}.before")
    if folder.exists():
        folder.rename(before)
    try:
        aside.rename(folder)
    except BaseException:
        with suppress(OSError):
            before.rename(folder)
        raise
    shutil.rmtree(before, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends. Yields whether it could be: some network file systems have no locks."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except OSError:
        locked = False
    try:
        yield locked
    finally:
        os.close(place)


def _remove_leftovers(folder: Path) -> None:
    """Remove what earlier exports into this folder left aside because they were killed; those that still run hold a lock."""
    aside = re.compile(rf"\.{re.escape(folder.name)}\.\d+-[0-9a-f]{{8}}\.new(\.before)?")
    with suppress(OSError):
        for path in [path for path in folder.parent.iterdir() if aside.fullmatch(path.name)]:
            with _locked(path) as left:
                if left:
                    shutil.rmtree(path, ignore_errors=True)


def _reason(error: Exception) -> str:
    """What refused to write, in words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = re.search(r"os error (\d+)", str(error))  # safetensors has no error of its own for a full disk
    return os.strerror(int(number[1])) if number else str(error)
