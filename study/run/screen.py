"""Show the progress of a study: a live table of 80 columns in a terminal, a short line per evaluation elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.records.metric import ERROR_RATE, Metric
from analysis.text.numbers import WIDTH, whole_seconds
from study.definition.space import describe
from trainables.settings.stages import SETTINGS

STYLES = {"running": "cyan", "complete": "green", "loaded": "green", "stopped": "yellow", "diverged": "red", "failed": "red"}


def number(value: Any, form: str) -> str:
    """Format a number; a dash for None."""
    return "–" if value is None else format(value, form)


@dataclass
class TrialLine:
    """One trial on the screen."""

    name: str
    settings: str
    epochs: int
    epoch: float = 0
    loss: float | None = None
    score: float | None = None
    speed: float | None = None
    state: str = "running"


@dataclass
class PartProgress:
    """The progress of one part of a study: units in total, done, and done in this session."""

    total: int = 0
    done: int = 0
    here: int = 0
    seconds: float = 0.0
    """Seconds spent on it in this session."""
    began: float | None = None

    def left(self) -> float | None:
        """Seconds left at the pace of this session; None without a pace."""
        if self.done >= self.total:
            return 0.0
        spent = self.seconds + (time.monotonic() - self.began if self.began is not None else 0.0)
        return spent / self.here * (self.total - self.done) if self.here else None


@dataclass
class Screen:
    """Displays a running study. Only the launcher calls it."""

    out: TextIO
    name: str
    metric: Metric = ERROR_RATE
    parts: dict[str, PartProgress] = field(
        default_factory=lambda: {part: PartProgress() for part in ("stages", "search", "finals", "test")}
    )
    lines: dict[str, TrialLine] = field(default_factory=dict)
    best: tuple[float, str, str] | None = None
    """(loss on validation in percent, trial, settings)"""
    doing: str = "starting"

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self.out.isatty():
            console = Console(file=self.out, width=min(WIDTH, shutil.get_terminal_size().columns))
            self._live = Live(get_renderable=self.render, console=console, refresh_per_second=2, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.__exit__(*error)
            self._live = None

    def say(self, text: str) -> None:
        """Print a line that stays visible."""
        if self._live is not None:
            self._live.console.print(Text(text, overflow="fold"))
        else:
            print(text, file=self.out, flush=True)

    def begin(self, part: str, doing: str) -> None:
        """Begin a part: stages, search, finals or test."""
        for name, other in self.parts.items():
            if other.began is not None:
                other.seconds += time.monotonic() - other.began
                other.began = None
            if name == part:
                other.began = time.monotonic()
        self.doing = doing
        if self._live is None:
            self.say(doing)

    def expect(self, part: str, total: int, done: int = 0) -> None:
        """Set the number of units of a part, and how many of them earlier sessions did."""
        self.parts[part].total, self.parts[part].done = total, done

    def trial(self, name: str, params: Mapping[str, Any], epochs: int) -> None:
        """Add a line for a trial that starts."""
        self.lines[name] = TrialLine(name, describe(dict(params)), epochs)

    def evaluation(self, name: str, row: Mapping[str, Any]) -> None:
        """Show an evaluation of a trial, or of a shared stage under its own name."""
        line = self.lines.setdefault(name, TrialLine(name, "", 0))
        loss = row["train_loss"] if row.get("loss") is None else row["loss"]
        score, speed = self.metric.score(row), row.get("tokens_per_s")
        if row.get("split") == "test":
            where = "test"  # the table keeps the validation score
        else:
            line.epoch, line.loss, line.score, line.speed = row.get("epoch") or 0, loss, score, speed
            where = f"epoch {line.epoch:.3g}" + (f"/{line.epochs}" if line.epochs else "")
        if row.get("stage") in SETTINGS.keys() - {"finetune"}:
            line.settings = f"{row['stage_name']}, step {row['step']}"
        if self._live is None:
            columns = [f"{name:<5} {where:<10} loss {number(loss, '.3f')}"]
            columns += [f"{self.metric.label} {score:5.2f} %"] if score is not None else []
            columns += [f"{speed:,.0f} tokens/s"] if speed is not None else []
            self.say("  ".join([*columns, line.settings])[: WIDTH + 40])

    def ended(self, name: str, state: str, part: str | None = None, reason: str | None = None) -> None:
        """Show the end of a trial and count it as done in its part."""
        if name in self.lines:
            self.lines[name].state = state
        if part is not None:
            self.parts[part].done += 1
            self.parts[part].here += 1
        if state in ("diverged", "failed"):
            self.say(f"{name} {state}: {reason}"[: 2 * WIDTH])

    def found(self, loss: float, name: str, params: Mapping[str, Any]) -> None:
        """Show a finished trial as the best so far, if its validation loss in percent is the lowest."""
        if self.best is None or loss < self.best[0]:
            self.best = (loss, name, describe(dict(params)))

    def left(self) -> float | None:
        """Seconds left for the whole study at the pace so far; None while it cannot be estimated."""
        total, pace = 0.0, None
        for name, part in self.parts.items():
            left = part.left()
            if left is None:
                # The pace of search trials serves for finals, and a tenth of it for the test, which is quick.
                if pace is None or name == "stages":
                    return None
                left = pace * (part.total - part.done) * (0.1 if name == "test" else 1.0)
            elif part.here:
                pace = (part.seconds + (time.monotonic() - part.began if part.began else 0.0)) / part.here
            total += left
        return total

    def render(self) -> Group:
        """Build the live view."""
        rows = max(4, shutil.get_terminal_size().lines - 9)
        table = Table(box=None, width=WIDTH, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for title, width, right in (
            ("trial", 5, False),
            ("settings", 29, False),
            ("epoch", 5, True),
            ("loss", 6, True),
            (self.metric.short, 8, True),
            ("tok/s", 7, True),
            ("state", 8, False),
        ):
            table.add_column(title, width=width, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        for line in self._shown(rows):
            table.add_row(
                line.name,
                line.settings,
                f"{line.epoch:.2g}" + (f"/{line.epochs}" if line.epochs else ""),
                number(line.loss, ".3f"),
                number(line.score, ".2f"),
                number(line.speed, ",.0f"),
                Text(line.state, STYLES.get(line.state, "")),
            )
        return Group(Text(f"{self.name}: {self.doing}", style="bold", no_wrap=True, overflow="ellipsis"), table, *self._summary())

    def _shown(self, count: int) -> list[TrialLine]:
        """Running trials, and the latest of those that have ended."""
        lines = list(self.lines.values())
        running = [line for line in lines if line.state == "running"]
        over = [line for line in lines if line.state != "running"]
        keep = {id(line) for line in running + over[-max(1, count - len(running)) :]}
        return [line for line in lines if id(line) in keep][-count:]

    def _summary(self) -> list[Text]:
        total = sum(part.total for part in self.parts.values())
        done = sum(part.done for part in self.parts.values())
        filled = round(30 * done / total) if total else 0
        counts = ", ".join(f"{name} {part.done}/{part.total}" for name, part in self.parts.items() if part.total)
        left = self.left()
        elapsed = whole_seconds(time.monotonic() - self.started)
        clock = f"{elapsed} elapsed, about {whole_seconds(left)} left" if left else f"{elapsed} elapsed"
        lines = [Text(f"{'━' * filled}{'─' * (30 - filled)} {counts}", no_wrap=True, overflow="ellipsis"), Text(clock)]
        if self.best is not None:
            loss, name, chosen = self.best
            score = f"{self.metric.turned(loss):.2f} % validation {self.metric.label}"
            lines.append(Text(f"best so far: {name}, {score}, {chosen}", no_wrap=True, overflow="ellipsis"))
        return lines
