"""When a run stops before its last step: it is asked to, or its steps go bad."""

import itertools
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stop:
    """``stopped()``: whether to stop now. ``status``: the program's exit status in that case.

    In a distributed run every process must ask after the same steps; all get the same answer for the same step.
    """

    def __init__(self):
        self.status = 0
        self._asked = False
        self._questions = itertools.count(1)

    def __call__(self) -> bool:
        # Where the runtime has several processes it listens to SIGTERM itself, and has them agree on a number, which it
        # takes for the next one that all of them come to: so questions are counted, not steps, of which calls may have
        # several.
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(self._questions))
        return self._asked

    def _terminate(self, number: int, frame: object) -> None:
        self._asked = True

    def _interrupt(self, number: int, frame: object) -> None:
        self._asked, self.status = True, 128 + number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """``with interruptible() as stopped``: SIGTERM and the first Ctrl-C are requests to stop, of status 0 and 130.

    A second Ctrl-C is Python's own.
    """
    stop = Stop()
    own = {signal.SIGINT: stop._interrupt}
    if jax.process_count() == 1:
        own[signal.SIGTERM] = stop._terminate
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Diverged(Exception):
    """``count`` steps in a row were bad, the first of them that after ``first`` steps."""

    def __init__(self, first: int, count: int):
        super().__init__(f"{count} steps in a row had a bad gradient, from step {first} on")
        self.first, self.count = first, count


class Watch:
    """Raises `Diverged` once ``limit`` steps in a row were bad.

    The counts are on the device; each is read ``lag`` steps later, when it is there, so that no step is waited for.
    """

    def __init__(self, limit: int, lag: int = 8):
        self._limit, self._lag = limit, lag
        self._counts: deque[tuple[int, jax.Array]] = deque()

    def add(self, done: int, in_row: jax.Array) -> None:
        """The number of bad steps in a row after ``done`` steps; or those after each of the last n steps, [n]."""
        self._counts.append((done, in_row))
        self._read(done - self._lag)

    def close(self) -> None:
        """Read what is left."""
        if self._counts:
            self._read(self._counts[-1][0])

    def _read(self, until: int) -> None:
        while self._counts and self._counts[0][0] <= until:
            done, counts = self._counts.popleft()
            for step, in_row in enumerate(np.atleast_1d(counts).tolist(), done + 1 - np.size(counts)):
                if in_row >= self._limit:
                    raise Diverged(step - in_row, in_row)
