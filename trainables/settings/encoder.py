"""Settings of an encoder: the source of its files, or the configuration of a new one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from trainables.settings.base import Settings


class Encoder(Settings):
    """A transformers encoder: one of `hub`, `folder`, `package`, `config`."""

    hub: str | None = None
    """Name on the hub, such as `google-bert/bert-base-uncased`."""
    revision: str | None = None
    """Commit or tag on the hub."""
    folder: str | None = None
    """A local folder written by `save_pretrained`; with `package`, a folder inside it."""
    package: str | None = None
    """An installed Python package that contains the encoder in `folder`."""
    config: dict[str, Any] | None = None
    """An encoder trained from scratch: `model_type` and the fields of its transformers configuration."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer for `config`. Without it a WordPiece vocabulary is trained on the training texts."""
    vocabulary: Annotated[int, Field(ge=100)] = 8000
    """Size of the trained vocabulary, in pieces."""
    sha256: str | None = None
    """Expected digest of the weights file; another digest is refused."""

    @model_validator(mode="after")
    def _one_source(self) -> Encoder:
        sources = [n for n in ("hub", "package", "config") if getattr(self, n) is not None]
        if self.folder is not None and self.package is None:
            sources.append("folder")
        if len(sources) != 1:
            raise ValueError(
                f"an encoder needs exactly one of hub, folder, package (with folder), config; given: {', '.join(sources) or 'none'}"
            )
        if self.package is not None and self.folder is None:
            raise ValueError(f"package {self.package!r} needs `folder`: the folder inside the package that holds the encoder")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs `model_type`, such as bert")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
