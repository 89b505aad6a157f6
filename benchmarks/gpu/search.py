"""Time that is given, and the batch size that uses it best. Needs neither JAX nor PyTorch."""

import time
from collections.abc import Callable
from typing import NamedTuple

GAIN = 1.02  # what a doubled batch must bring for the search to go on


class Budget:
    """``minutes`` from now on; ``clock`` tells seconds."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self.total, self.clock = 60 * minutes, clock
        self.began = clock()

    @property
    def spent(self) -> float:
        """Seconds."""
        return self.clock() - self.began

    def until(self, share: float) -> float:
        """Seconds that are left of that share of the whole; below 0 where it is used up."""
        return share * self.total - self.spent


class Trial(NamedTuple):
    """What a batch size gave: images a second, or why it did not run."""

    batch: int
    images_per_second: float | None
    why: str = ""


class Search(NamedTuple):
    """The best batch size, its images a second, what was tried, and whether time ended the search."""

    batch: int
    images_per_second: float
    tried: tuple[Trial, ...]
    out_of_time: bool


def best_batch(first: int, rate: Callable[[int], float], left: Callable[[], float]) -> Search:
    """From ``first`` on, doubled while that brings 2 % more images a second; halved until it runs, where it does not.

    ``rate(batch)`` is measured, and raises RuntimeError where the batch does not fit; ``left()`` are the seconds that
    remain: none is tried that would take longer than the longest before it did. Raises RuntimeError, with the words of
    the last trial, where no batch runs.
    """
    tried: list[Trial] = []
    batch, best, longest, out_of_time = first, None, 0.0, False
    while True:
        before = left()
        try:
            tried.append(Trial(batch, rate(batch)))
        except RuntimeError as error:
            tried.append(Trial(batch, None, str(error).strip().partition("\n")[0]))
        longest = max(longest, before - left())
        now, halving = tried[-1], tried[0].images_per_second is None
        gained = now.images_per_second is not None and (
            best is None or now.images_per_second >= GAIN * best.images_per_second
        )
        if now.images_per_second is not None and (best is None or now.images_per_second > best.images_per_second):
            best = now
        following = batch // 2 if halving and best is None else 2 * batch if gained and not halving else 0
        if not following or (out_of_time := left() < longest):
            break
        batch = following
    if best is None:
        raise RuntimeError(f"no batch runs; of {tried[-1].batch}: {tried[-1].why}")
    return Search(best.batch, best.images_per_second, tuple(tried), out_of_time)
