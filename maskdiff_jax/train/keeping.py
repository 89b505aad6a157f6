"""Which checkpoints are kept, and which are the best."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def check(latest: int, every: int | None, best: int) -> None:
    """Raise ValueError for numbers of checkpoints to keep, or of steps between them, that are too small."""
    if latest < 1:
        raise ValueError(f"keep_latest must be at least 1, got {latest}")
    if every is not None and every < 1:
        raise ValueError(f"keep_every must be at least 1 or None, got {every}")
    if best < 0:
        raise ValueError(f"keep_best must be at least 0, got {best}")


def ranked(metric: float | None) -> float | None:
    """The metric as a number by which checkpoints can be ranked: None for None, NaN and infinities."""
    return None if metric is None or not math.isfinite(metric) else float(metric)


def ranking(metrics: Mapping[int, float | None]) -> list[int]:
    """The steps of {step: metric} that have one, that of the least first; of equal ones the latest."""
    found = {step: metric for step, metric in metrics.items() if metric is not None}
    return sorted(found, key=lambda step: (found[step], -step))


class Best:
    """A preservation policy: the ``count`` checkpoints of the least metric.

    Orbax's `BestN` takes NaN for the best, preserves everything while there is little, and deletes the best once a
    manager was opened without its reading every checkpoint.
    """

    def __init__(self, count: int):
        self.count = count
        self.metrics: dict[int, float | None] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = ranking({checkpoint.step: self.metrics.get(checkpoint.step) for checkpoint in checkpoints})
        return [checkpoint.step in best[: self.count] for checkpoint in checkpoints]
