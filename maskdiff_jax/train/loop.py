"""The loop: steps, and what happens between them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax.train.state import TrainState

# (steps done, state) -> None
Action = Callable[[int, TrainState], None]


class Hook(NamedTuple):
    """``call(done, state)`` after every ``every`` steps and after the last one; never for every = 0."""

    every: int
    call: Action

    def due(self, done: int, last: bool) -> bool:
        return bool(self.every) and (last or done % self.every == 0)


class Meter:
    """Metrics of the steps since the last reading; they stay on the device until they are read."""

    def __init__(self):
        self._metrics: list[dict[str, jax.Array]] = []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._metrics.append(metrics)

    def read(self) -> dict[str, float]:
        """The mean of each metric since the last reading; waits for the device."""
        metrics, self._metrics = jax.device_get(self._metrics), []
        return {name: float(np.mean([m[name] for m in metrics])) for name in (metrics[0] if metrics else {})}


def run(
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    steps: int,
    meter: Meter,
    hooks: list[Hook],
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, int]:
    """Train until ``steps`` steps are done in all, or ``stopped()``; the state, and the number of steps done.

    Hooks run in their order; an interruption calls none that is not due.
    """
    done = int(state.step)
    while done < steps and not stopped():
        state, metrics = step(state, next(batches))
        meter.add(metrics)
        done += 1
        for hook in hooks:
            if hook.due(done, done == steps):
                hook.call(done, state)
    return state, done


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """``with interruptible() as stopped``: the first Ctrl-C makes ``stopped()`` true, a second one is Python's own."""
    seen = []

    def note(number, frame):
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
