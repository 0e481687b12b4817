"""`study_model.json`: what an exported model is, beside its weights, and the digests of the files that it consists of.

Settings of the head and of reading texts are those of the fine-tuning stage. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trainables.settings.base import Positive, Settings
from trainables.settings.errors import ConfigError
from trainables.settings.stages import Finetune
from trainables.settings.validate import validate
from trainables.store.files import sha256
from trainables.store.local_files import is_name

FILE = "study_model.json"
HEAD = "head.safetensors"
"""The parameters of the head: all of the model that is not its encoder."""
CARD = "README.md"
FORMAT = 1
"""Version of the form of `study_model.json`."""


class FileFacts(Settings):
    """What a file must be."""

    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the content."""


class Description(Settings):
    """An exported model."""

    format: Literal[1] = 1
    """Version of this form."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes, or in a multi-label task of the labels, in the order of the logits."""
    multi_label: bool
    """Whether a text may have several labels."""
    pairs: bool
    """Whether an example is a pair of texts."""
    finetune: Finetune
    """Settings of the fine-tuning: the head, and how a text is cut."""
    encoder_layers: Annotated[int, Field(ge=1)]
    """Number of blocks of the encoder that was fine-tuned. The folder has only those that the head uses."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"]
    """Precision of matrix products in training and evaluation; weights are float32."""
    thresholds: tuple[float, ...] | None = None
    """Least probability for the prediction of each label in a multi-label task; null in others."""
    temperature: Positive = 1.0
    """Logits are divided by it before they become probabilities; 1: not calibrated."""
    plain: bool
    """Whether transformers' own classifier of the family computes the same, so that `config.json` names it."""
    reason: str = ""
    """Why it does not; empty if it does."""
    files: dict[str, FileFacts]
    """Every file that the model is loaded from."""


def facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def read(folder: Path) -> Description:
    """Read the description in a folder, and check the files that it names.

    Raises ConfigError if the folder is no exported model, if its version is another, or if a file is missing or altered.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        reason = "it has none" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError([f"{folder}: no exported model, which has a {FILE}: {reason}; study export writes one"]) from None
    except (ValueError, RecursionError):
        raise ConfigError([f"{path}: damaged: it is not JSON; export the model again"]) from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise ConfigError([f"{path}: format {version!r} given, but this version of finetune-study reads {FORMAT}"])
    try:
        described = validate(Description, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {fault}" for fault in error.faults) from None
    if faults := [*_form_faults(described), *_file_faults(folder, described)]:
        raise ConfigError(f"{folder}: {fault}" for fault in faults)
    return described


def _form_faults(described: Description) -> list[str]:
    """Faults of fields that depend on each other."""
    count, thresholds = len(described.labels), described.thresholds
    faults = [f"{FILE}: files: {name!r} is no name of a file" for name in described.files if not is_name(name)]
    faults += [f"{FILE}: files: {name} is not among them" for name in ("config.json", HEAD) if name not in described.files]
    if len(set(described.labels)) < count:
        faults.append(f"{FILE}: labels: a name occurs twice")
    if described.multi_label != (thresholds is not None) or (thresholds is not None and len(thresholds) != count):
        faults.append(f"{FILE}: thresholds: a multi-label model has one for each of its {count} labels, others have none")
    return faults


def _file_faults(folder: Path, described: Description) -> list[str]:
    """Files that are not what was exported."""
    faults = []
    for name, expected in described.files.items():
        path = folder / name
        if not is_name(name):
            continue
        if not path.is_file():
            faults.append(f"{name} is gone; export the model again")
        elif path.stat().st_size != expected.size or sha256(path) != expected.sha256:
            faults.append(f"{name} is not the file that was exported: it was altered or copied in part; export the model again")
    return faults
