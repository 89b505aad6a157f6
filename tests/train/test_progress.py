"""The bar on a terminal and the lines elsewhere, with a clock of our own."""

import io
import re
import sys
import time

import pytest
from tqdm import tqdm

from maskdiff_jax.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told to, for the bar and for the lines."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    return now


def run(progress, clock, steps, seconds, compile_time=0.0):
    clock[0] += compile_time
    for step in steps:
        progress.update(step, 1 / step)
        clock[0] += seconds


def test_lines_where_there_is_no_terminal(clock):
    lines, stream = [], io.StringIO()
    with Progress(1000, 100, 64, stream=stream, interval=10, log=lines.append) as progress:
        run(progress, clock, range(101, 301), 0.25, compile_time=500)
    assert stream.getvalue() == ""
    assert lines[0] == "step 141/1000 (14%), 4 steps/s, 256 img/s, 03:34 left, loss 0.007092"
    assert len(lines) == 5  # after 10, 20, 30 and 40 seconds, and at the end
    assert lines[-1].startswith("step 300/1000 (30%), ")


def test_slow_steps_are_given_in_seconds(clock):
    lines = []
    with Progress(10, stream=io.StringIO(), interval=1, log=lines.append) as progress:
        run(progress, clock, range(1, 4), 2.5)
    assert lines[0] == "step 2/10 (20%), 2.5 s/step, 00:20 left, loss 0.5"


@pytest.mark.parametrize("columns", [80, 60, 30])
def test_the_bar_fits_the_terminal_and_shows_rates_and_loss(clock, columns, monkeypatch):
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda stream: (columns, 24))
    stream = Terminal()
    with Progress(20_000_000, 12_345_000, 1024, stream=stream) as progress:
        run(progress, clock, range(12_345_001, 12_345_401), 0.5, compile_time=300)
    drawn = [line for line in stream.getvalue().replace("\n", "\r").split("\r") if line]
    assert len(drawn) > 100 and max(map(len, drawn)) <= columns
    if columns == 80:
        assert drawn[-1].endswith(" 12345400/20000000 [03:20<44 days, 2 steps/s, 2.04k img/s, loss 8.1e-08]")


def test_log_lines_pass_above_the_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(10) as progress:
        progress.update(1, 0.5)
        print("a line of the log", file=sys.stderr)
        progress.update(2, 0.25)
    assert sys.stderr is stream
    assert "\ra line of the log\n" in re.sub(r"\r +\r", "\r", stream.getvalue())


def test_closing_before_the_first_step_says_nothing():
    lines = []
    Progress(10, stream=io.StringIO(), log=lines.append).close()
    assert lines == []
