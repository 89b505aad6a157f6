"""How far a run is: a bar on a terminal, a log line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, Self, TextIO, cast

import jax
from absl import logging
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}{speed}{note}]"


def say(line: str) -> None:
    """A line of a run's own words, once for all processes."""
    if jax.process_index() == 0:
        print(line, flush=True)


class Progress:
    """Steps done, steps and images per second, time left and the current loss.

    On a terminal it is one line that is redrawn, above which log lines pass; otherwise ``log`` gets a line every
    ``interval`` seconds. The first `update` starts the clock, so that compiling the first step does not blur the rate.
    ``total`` and ``done`` are the run's last step and the step that it starts or resumes from; ``images`` is the number
    of images per step.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        images: int = 0,
        *,
        stream: TextIO | None = None,
        interval: float = 30.0,
        log: Callable[[str], Any] = logging.info,
    ):
        self._total, self._images, self._interval, self._log = total, images, interval, log
        self._step = self._first = done
        self._started = self._logged = time.monotonic()
        self._counting = False
        self._loss: float | None = None
        self._bar: _Bar | None = None
        self._stack = contextlib.ExitStack()
        stream = stream or sys.stderr
        if stream is not None and stream.isatty() and jax.process_index() == 0:
            self._bar = _Bar(
                total=total, initial=done, file=stream, bar_format=_FORMAT, dynamic_ncols=True, smoothing=0.1
            )
            self._bar.images = images
            self._stack.callback(self._bar.close)
            if stream is sys.stderr:  # the log writes there: let its lines pass above the bar
                self._stack.enter_context(contextlib.redirect_stderr(cast(TextIO, DummyTqdmFile(stream))))

    def update(self, step: int, loss: float | None = None) -> None:
        """``step`` steps are done; ``loss`` is the last one fetched (a device array would be waited for)."""
        self._loss = self._loss if loss is None else float(loss)
        self._step = step
        if not self._counting:
            self._counting, self._first = True, step
            self._started = self._logged = time.monotonic()
            if self._bar:
                self._bar.restart_clock(step)
        if self._bar:
            self._bar.loss = self._loss
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._logged >= self._interval:
            self._logged = time.monotonic()
            self._log(self.line())

    def line(self) -> str:
        """The state in words: "step 4200/10000 (42%), 31.9 steps/s, 4.08k images/s, 3:01 left, loss 0.1234"."""
        parts = [f"step {self._step}/{self._total} ({100 * self._step // max(self._total, 1)}%)"]
        rate = (self._step - self._first) / max(time.monotonic() - self._started, 1e-9)
        if rate > 0:
            parts += _speed(rate, self._images)
            parts.append(f"{_left(self._total - self._step, rate)} left")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        return ", ".join(parts)

    def close(self) -> None:
        """Leave the last state on the screen, or in the log."""
        if self._bar is None and self._counting:
            self._log(self.line())
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bar(tqdm):
    """tqdm with images per second and the loss among the fields of its format."""

    images = 0
    loss: float | None = None

    def restart_clock(self, step: int) -> None:
        self.n = self.initial = self.last_print_n = step
        self.start_t = self.last_print_t = self._time()  # pyright: ignore[reportAttributeAccessIssue]
        self.refresh()

    @property
    def format_dict(self) -> dict[str, Any]:
        fields = dict(super().format_dict)
        rate = fields["rate"]
        if rate is None and fields["elapsed"] > 0:
            rate = (self.n - self.initial) / fields["elapsed"]
        fields["left"] = _left(self.total - self.n, rate) if rate else "?"
        fields["speed"] = "".join(f", {part}" for part in _speed(rate, self.images)) if rate else ""
        fields["note"] = "" if self.loss is None else f", loss {self.loss:.4g}"
        return fields


def _speed(rate: float, images: int) -> list[str]:
    steps = f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step"
    return [steps, f"{tqdm.format_sizeof(rate * images)} img/s"] if images else [steps]


def _left(steps: float, rate: float) -> str:
    hours = steps / rate / 3600
    return f"{hours / 24:.0f} days" if hours >= 100 else tqdm.format_interval(3600 * hours)
