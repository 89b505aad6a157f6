"""The loop: steps, and what happens between them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import metrics

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
        self._steps: list[dict[str, jax.Array]] = []

    def add(self, step: dict[str, jax.Array]) -> None:
        self._steps.append(step)

    def read(self) -> dict[str, float]:
        """The mean of each metric over the steps since the last reading where it is finite; waits for the device."""
        steps, self._steps = jax.device_get(self._steps), []
        if not steps:
            return {}
        values = {name: np.array([step[name] for step in steps], np.float32) for name in steps[0]}
        averages = {  # a skipped step's NaN must not hide the others
            name: metrics.Average.from_model_output(np.nan_to_num(v, posinf=0, neginf=0), mask=np.isfinite(v))
            for name, v in values.items()
        }
        means = metrics.Collection.create_collection(**averages).compute()
        return {name: float(mean) for name, mean in means.items()}


class Profiler:
    """A hook that traces the steps after ``first`` up to ``last`` of "first:last" into ``directory``; "" traces none.

    The trace opens in TensorBoard, XProf or Perfetto. Raises ValueError as `profiled_steps`.
    """

    def __init__(self, steps: str, directory: Path):
        self._directory, self._running = directory, False
        self._first, self._last = profiled_steps(steps) if steps else (-1, -1)

    def __call__(self, done: int, state: TrainState) -> None:
        if done == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif self._running and done >= self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Write what was traced, where a run ends early."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def profiled_steps(text: str) -> tuple[int, int]:
    """ "10:20" -> (10, 20). Raises ValueError for anything else."""
    try:
        first, last = map(int, text.split(":"))
    except ValueError:
        first, last = 0, 0
    if not 1 <= first < last:
        raise ValueError(f"two step numbers as in '10:20', the first at least 1 and the smaller, got {text!r}")
    return first, last


def run(
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    steps: int,
    meter: Meter,
    hooks: list[Hook],
    stopped: Callable[[int], bool] = lambda done: False,
) -> tuple[TrainState, int]:
    """Train until ``steps`` steps are done in all, or ``stopped(done)``; the state, and the number of steps done.

    Hooks run in their order; an interruption calls none that is not due.
    """
    done = int(state.step)
    while done < steps and not stopped(done):
        state, measured = step(state, next(batches))
        meter.add(measured)
        done += 1
        for hook in hooks:
            if hook.due(done, done == steps):
                hook.call(done, state)
    return state, done
