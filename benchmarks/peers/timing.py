"""Taking turns, and what the measured seconds say. Needs neither JAX nor PyTorch."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Taken(NamedTuple):
    """Seconds of one timing: of the clock, and of the processor in all threads."""

    wall: float
    cpu: float


class Ratio(NamedTuple):
    """How many times faster: the median over rounds, and an interval that holds the true median with ``coverage``."""

    median: float
    low: float
    high: float
    coverage: float


def alternate(
    ways: Mapping[str, Callable[[], Taken]],
    rounds: int,
    pause: float = 0.1,
    more: Callable[[], bool] = lambda: True,
) -> dict[str, list[Taken]]:
    """What each way took in each round, one after the other, every other round in the opposite order.

    A way returns its seconds once its work is done. ``pause`` seconds before each let the threads of the one before go
    to sleep. From the second round on, ``more()`` is asked whether there is to be another.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for number in range(rounds):
        if number and not more():
            break
        for name in list(ways)[:: -1 if number % 2 else 1]:
            time.sleep(pause)
            taken[name].append(ways[name]())
    return taken


def faster(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """How many times faster ours is, from the seconds of both in the same rounds; above 1 ours is ahead.

    The interval lies between order statistics of the rounds' ratios, which assumes nothing about their distribution:
    the narrowest one about the middle that covers the median with 95 %. With fewer than 6 rounds there is none; it is
    then the range, and ``coverage`` says less. Raises ValueError for no rounds or lists of different lengths.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"ratios need the same rounds of both, got {len(ours)} and {len(theirs)}")
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    n = len(ratios)
    out = max((cut for cut in range((n + 1) // 2) if covers(n, cut) >= CONFIDENCE), default=0)
    return Ratio(statistics.median(ratios), ratios[out], ratios[n - 1 - out], covers(n, out))


def covers(n: int, cut: int) -> float:
    """The probability that the median lies between the values that are left of n when ``cut`` go at either end."""
    return max(0.0, 1 - 2 * sum(math.comb(n, i) for i in range(cut + 1)) / 2**n)


def best(seconds: Mapping[str, Sequence[float]]) -> str:
    """The way of the lowest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))
