"""Read the arguments that several commands share: a study file, an ablation with its options. Imports no heavy package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.ablations.grid import AblationGrid


def ablation_grid(
    name: str,
    scale: str | None,
    only: str | None,
    seeds: int | None,
    encoder: str | None,
    overrides: tuple[str, ...],
    placeholders: bool = False,
) -> AblationGrid:
    """Return an ablation with the options applied. Raises ConfigError."""
    from study.ablations import ablation_file, grid
    from study.survey.tasks import encoder_named

    tasks = [name.strip() for name in (only or "").split(",") if name.strip()]
    named = encoder_named(encoder, absolute=True) if encoder else None
    loaded = ablation_file.load(name)
    scale = scale or ("small" if "small" in loaded.ablation.scales else "paper")
    return grid.grid(loaded, scale, tasks, seeds, named, overrides, placeholders)


def command_line(command: str, target: object, overrides: tuple[str, ...], options: Mapping[str, object]) -> str:
    """Return the command with its argument and the options that are set, quoted for a shell."""
    import shlex

    flags = [("--set", text) for text in overrides] + [(f"--{name}", value) for name, value in options.items() if value]
    return " ".join([command, shlex.quote(str(target)), *(f"{option} {shlex.quote(str(value))}" for option, value in flags)])
