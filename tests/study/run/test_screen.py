"""The screen: 80 columns, plain lines elsewhere, an honest idea of the time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from analysis.text.numbers import whole_seconds
from study.run.screen import PartProgress, Screen

ROW = {"stage": "finetune", "epoch": 1.0, "loss": 0.6931, "error_rate_percent": 12.5, "tokens_per_s": 123456.7}
PARAMS = {"finetune.learning_rate": 3.2e-5, "finetune.truncation": "head+tail", "finetune.head_tokens": 6, "pretrain.steps": 100}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(out, "tiny"), out


def test_a_short_line_per_evaluation_where_there_is_no_terminal() -> None:
    screen, out = plain()
    with screen:
        screen.trial("t000", PARAMS, 4)
        screen.evaluation("t000", ROW)
    (line,) = out.getvalue().splitlines()
    assert len(line) <= 120
    assert line.startswith("t000  epoch 1/4")
    assert "error 12.50 %" in line
    assert "123,457 tokens/s" in line
    assert "\x1b" not in out.getvalue()


def test_the_live_view_fits_80_columns_and_shows_what_was_asked_for() -> None:
    screen, _ = plain()
    screen.expect("search", 30)
    for number in range(30):
        screen.trial(f"t{number:03d}", PARAMS, 4)
        screen.evaluation(f"t{number:03d}", ROW | {"error_rate_percent": 20.0 - number / 10})
        if number < 28:
            screen.ended(f"t{number:03d}", "stopped" if number % 2 else "complete", "search")
    screen.found(17.5, "t025", PARAMS)
    page = io.StringIO()
    Console(file=page, width=80).print(screen.render())
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = page.getvalue()
    for title in ("trial", "settings", "epoch", "loss", "error %", "tok/s", "state"):
        assert title in lines[1]
    for word in ("t029", "running", "search 28/30", "best so far: t025"):
        assert word in text
    assert len(lines) < 30, "the table grows with the number of trials"


def test_a_terminal_gets_the_live_view_and_lines_that_stay() -> None:
    out = Terminal()
    with Screen(out, "tiny") as screen:
        screen.trial("t000", PARAMS, 4)
        screen.say("something happened")
        screen.ended("t000", "failed", "search", "ValueError: no")
    assert "something happened" in out.getvalue()
    assert "t000 failed: ValueError: no" in out.getvalue()


def test_a_test_score_is_said_but_does_not_replace_the_validation_error() -> None:
    screen, out = plain()
    screen.trial("f00", PARAMS, 4)
    screen.evaluation("f00", ROW)
    screen.evaluation("f00", {"split": "test", "loss": 0.5, "error_rate_percent": 9.5})
    assert "f00   test       loss 0.500  error  9.50 %" in out.getvalue()
    assert screen.lines["f00"].score == 12.5


def test_a_shared_stage_shows_its_step() -> None:
    screen, out = plain()
    screen.evaluation("stage", {"stage": "pretrain", "stage_name": "pretrain", "step": 50, "epoch": 0.25, "train_loss": 5.5})
    assert out.getvalue() == "stage epoch 0.25 loss 5.500  pretrain, step 50\n"


def test_best_is_the_lowest_error() -> None:
    screen, _ = plain()
    for error in (12.0, 10.0, 11.0):
        screen.found(error, f"at {error}", {})
    assert screen.best is not None
    assert screen.best[:2] == (10.0, "at 10.0")


def test_time_left_follows_the_pace_of_this_session() -> None:
    screen, _ = plain()
    screen.expect("search", 12, done=4)  # four of an earlier session say nothing about this one's pace
    screen.expect("finals", 2)
    assert screen.left() is None
    screen.parts["search"].began = time.monotonic() - 20
    for name in ("t004", "t005"):
        screen.trial(name, {}, 4)
        screen.ended(name, "complete", "search")
    assert screen.left() == pytest.approx(6 * 10 + 2 * 10, rel=0.01)


def test_nothing_is_left_of_a_part_that_is_done() -> None:
    assert PartProgress(total=3, done=3).left() == 0


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert whole_seconds(seconds) == text
