"""Whether a claim is confirmed: a pure function of the figures of its arms, by a rule that stands before any run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.claims.plan import Test
from maskdiff_jax.evaluate.curves import Curve, summary, value_at

CONFIRMED, NOT_CONFIRMED, UNDECIDED = "confirmed", "not confirmed", "undecided at this scale"
HOLDS, FAILS, OPEN = "holds", "fails", "open"


class Outcome(NamedTuple):
    """A test and what became of it: ``estimate`` and the ends of its 95 % interval, None where there is none."""

    test: Test
    values: list[float]
    estimate: float | None
    low: float | None
    high: float | None
    outcome: str


class Row(NamedTuple):
    """An arm's figures over seeds: ``figures[name]`` [n], and curves of what was measured along the way."""

    figures: dict[str, list[float]]
    curves: dict[str, list[Curve]]


def compared(test: Test, rows: Mapping[str, Row]) -> list[float]:
    """The paired values of a test, one for each seed: logarithms of ratios, or differences; NaN where one is missing.

    With ``test.at`` the figure is read off both curves at the cost of the one that ends first.
    """
    arm, other = rows[test.arm], rows[test.other]
    if test.at:
        pairs = [equal_cost(a, b, test.at) for a, b in _paired(arm.curves, other.curves, test.figure)]
    else:
        pairs = list(_paired(arm.figures, other.figures, test.figure))
    return [_pair(test.scale, a, b) for a, b in pairs]


def equal_cost(arm: Curve, other: Curve, axis: str) -> tuple[float, float]:
    """The values of two curves at the largest cost that both have."""
    cost = min(float(arm.cost[axis][-1]), float(other.cost[axis][-1]))
    return float(value_at(arm, axis, cost)), float(value_at(other, axis, cost))


def outcome(test: Test, rows: Mapping[str, Row]) -> Outcome:
    """The estimate of a test with its Student interval, and whether it holds, fails or stays open.

    One seed, or a figure that is not a number in any of them, leaves it open.
    """
    if (test.below is None) == (test.above is None):
        raise ValueError(f"{test.figure}: a test needs below or above, one of them")
    values = compared(test, rows)
    if not np.isfinite(values).all() or not values:
        return Outcome(test, values, None, None, None, OPEN)
    found = summary(values)
    back = math.exp if test.scale == "ratio" else float
    if found.half_width is None:
        return Outcome(test, values, back(found.mean), None, None, OPEN)
    low, high = back(found.mean - found.half_width), back(found.mean + found.half_width)
    return Outcome(test, values, back(found.mean), low, high, decide(test, low, high))


def decide(test: Test, low: float, high: float) -> str:
    """Whether the interval [low, high] is beyond the threshold of a test."""
    if test.below is not None:
        return HOLDS if high < test.below else FAILS if low >= test.below else OPEN
    assert test.above is not None
    return HOLDS if low > test.above else FAILS if high <= test.above else OPEN


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Confirmed where all tests hold, not confirmed where one fails, undecided otherwise (and without tests)."""
    found = [o.outcome for o in outcomes]
    if FAILS in found:
        return NOT_CONFIRMED
    return CONFIRMED if found and all(o == HOLDS for o in found) else UNDECIDED


def statement(test: Test) -> str:
    """The test in words: "fid: element 0.9 / dense < 1"."""
    sign = "/" if test.scale == "ratio" else "−"
    bound = f"< {test.below:g}" if test.below is not None else f"> {test.above:g}"
    at = f" at equal {test.at if test.at != 'flops' else 'FLOPs'}" if test.at else ""
    return f"{test.figure}{at}: {test.arm} {sign} {test.other} {bound}"


def _paired(a: Mapping[str, Sequence[Any]], b: Mapping[str, Sequence[Any]], name: str) -> list[tuple[Any, Any]]:
    for found in (a, b):
        if name not in found:
            raise ValueError(f"no figure {name!r}; there are {', '.join(found) or 'none'}")
    return list(zip(a[name], b[name], strict=True))


def _pair(scale: str, a: float, b: float) -> float:
    if scale == "difference":
        return a - b
    if scale != "ratio":
        raise ValueError(f"scale={scale!r}: choose from ratio, difference")
    return math.log(a / b) if a > 0 and b > 0 else float("nan")
