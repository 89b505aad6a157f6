"""The loop: steps, and what happens between them."""

import itertools
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
    """``call(done, state)`` after every ``every`` steps and the last one (never for 0), and after the steps ``at``."""

    every: int
    call: Action
    at: tuple[int, ...] = ()

    def due(self, done: int, last: bool) -> bool:
        return done in self.at or (bool(self.every) and (last or done % self.every == 0))

    def following(self, done: int) -> list[int]:
        """Steps after ``done``, the next one with a call among them; empty where there are no more."""
        regular = [done - done % self.every + self.every] if self.every else []
        return regular + [step for step in self.at if step > done]


class Meter:
    """Metrics of the steps since the last reading; they stay on the device until they are read.

    They are scalars of a step, or arrays [n] of n steps.
    """

    def __init__(self):
        self._steps: list[dict[str, jax.Array]] = []

    def add(self, step: dict[str, jax.Array]) -> None:
        self._steps.append(step)

    def read(self) -> dict[str, float]:
        """The mean of each metric over the steps since the last reading where it is finite; waits for the device."""
        steps, self._steps = jax.device_get(self._steps), []
        if not steps:
            return {}
        values = {name: np.hstack([step[name] for step in steps]).astype(np.float32) for name in steps[0]}
        averages = {  # a skipped step's NaN must not hide the others
            name: metrics.Average.from_model_output(np.nan_to_num(v, posinf=0, neginf=0), mask=np.isfinite(v))
            for name, v in values.items()
        }
        means = metrics.Collection.create_collection(**averages).compute()
        return {name: float(mean) for name, mean in means.items()}


class Profiler:
    """Traces the steps after ``first`` up to ``last`` of "first:last" into ``directory``; "" traces none. See `hook`.

    The trace opens in TensorBoard, XProf or Perfetto. Raises ValueError as `profiled_steps`.
    """

    def __init__(self, steps: str, directory: Path):
        self._directory, self._running = directory, False
        self.hook = Hook(0, self._turn, profiled_steps(steps) if steps else ())

    def _turn(self, done: int, state: TrainState) -> None:
        jax.block_until_ready(state)
        if done == self.hook.at[0]:
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        else:
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
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    steps: int,
    meter: Meter,
    hooks: list[Hook],
    stopped: Callable[[], bool] = lambda: False,
    per_call: int = 1,
) -> tuple[TrainState, int]:
    """Train until ``steps`` steps are done in all, or ``stopped()``; the state, and the number of steps done.

    ``step(state, *raws)`` takes a step for each raw batch: ``per_call`` of them, or one where a hook or the end is due
    before that. Hooks run in their order; an interruption calls none that is not due.
    """
    done = int(state.step)
    while done < steps and not stopped():
        due = min([steps, *(step for hook in hooks for step in hook.following(done))])
        count = per_call if done + per_call <= due else 1
        state, measured = step(state, *itertools.islice(batches, count))
        meter.add(measured)
        done += count
        for hook in hooks:
            if hook.due(done, done == steps):
                hook.call(done, state)
    return state, done
