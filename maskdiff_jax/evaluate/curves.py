"""Learning curves of several runs against what they cost: who reaches whose best value first, and by what factor.

An arm is what is compared: one run, or several that differ in their seed.

A curve is the broken line through a run's measurements. Its point between two of them has its value, steps, FLOPs and
seconds in the same proportion, so a value is reached at one moment whichever axis is read. A loss falls convexly, as a
rule, so that the line lies above it: between measurements a value is reached late rather than early.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

AXES = ("steps", "flops", "seconds")
UNITS = {"steps": "steps", "flops": "FLOPs", "seconds": "seconds"}
TOTALS = ("step", "images", *AXES)  # entries of a line that are no metrics


class Curve(NamedTuple):
    """``value`` [n] of a metric, NaN where it was not finite, at ``cost[axis]`` [n] from the start, ascending."""

    cost: dict[str, np.ndarray]
    value: np.ndarray


class Summary(NamedTuple):
    """Values of an arm's seeds, their mean, and half the width of its 95 % interval; None for one seed."""

    mean: float
    half_width: float | None
    seeds: list[float]


class Best(NamedTuple):
    """The best values of an arm's seeds, and the geometric mean of what each had cost when it was first there."""

    value: Summary
    cost: dict[str, float]


class Reach(NamedTuple):
    """How the seeds of one arm reach another arm's best value, on one axis; None for a seed that never does.

    ``factors`` are ``reference``, the other arm's cost at its best, over ``costs``: above 1 is cheaper. ``cost`` and
    ``factor`` are geometric means over the seeds that do.
    """

    reference: float
    costs: list[float | None]
    cost: float | None
    factors: list[float | None]
    factor: float | None


class Pair(NamedTuple):
    """``arm`` against the mean best value ``level`` of the arm ``other``; ``reached`` of its ``seeds`` get there."""

    arm: str
    other: str
    level: float
    seeds: int
    reached: int
    axes: dict[str, Reach]


class Equal(NamedTuple):
    """The metric of every arm at the largest ``budget`` of an axis that all runs have; NaN before a first value."""

    budget: float
    arms: dict[str, Summary]


class Comparison(NamedTuple):
    """Every arm at its best, all arms at equal budgets by axis, and every ordered pair of arms."""

    best: dict[str, Best]
    equal: dict[str, Equal]
    pairs: list[Pair]


def curve_of(rows: Sequence[Mapping[str, Any]], metric: str, inherited: Mapping[str, float] | None = None) -> Curve:
    """The curve of ``metric`` in the lines of a metrics file, as `read_jsonl` gives them.

    Costs are cumulative and 0 at step 0; they are interpolated linearly between the lines that have them, and a
    measurement after the last of these is left out. ``inherited`` is the cost on every axis of what came before step 0.
    Raises ValueError where there is no such metric (naming those there), no finite value of it, no line with a cost or
    a cost that falls.
    """
    rows = sorted(rows, key=lambda row: row["step"])
    measured = [(row["step"], row[metric]) for row in rows if _is_number(row.get(metric)) and metric not in TOTALS]
    if not measured:
        known = dict.fromkeys(key for row in rows for key, value in row.items() if _is_number(value))
        raise ValueError(f"no metric {metric!r}; there are {', '.join(k for k in known if k not in TOTALS) or 'none'}")
    steps, value = np.array(measured, np.float64).T
    cost = {"steps": steps}
    for axis in AXES[1:]:
        lines = [(row["step"], row[axis]) for row in rows if row["step"] > 0 and _is_number(row.get(axis))]
        if not lines:
            raise ValueError(f"no line after step 0 has {axis!r}")
        at, total = np.array([(0, 0), *lines], np.float64).T
        if not (np.diff(total) >= 0).all():
            raise ValueError(f"{axis!r} falls after step {at[np.argmin(np.diff(total) >= 0)]:.0f}")
        cost[axis] = np.interp(steps, at, total, right=np.nan)
    kept = np.isfinite([cost[axis] for axis in AXES]).all(axis=0)
    value = np.where(np.isfinite(value), value, np.nan)[kept]
    if not np.isfinite(value).any():
        raise ValueError(f"no finite value of {metric!r}")
    before = inherited or dict.fromkeys(AXES, 0.0)
    return Curve({axis: cost[axis][kept] + before[axis] for axis in AXES}, value)


def best(curve: Curve, higher: bool = False) -> tuple[float, dict[str, float]]:
    """The best value, and the cost on every axis of its first measurement."""
    index = int(np.nanargmax(curve.value) if higher else np.nanargmin(curve.value))
    return float(curve.value[index]), {axis: float(cost[index]) for axis, cost in curve.cost.items()}


def reach(curve: Curve, level: float, higher: bool = False) -> dict[str, float] | None:
    """The cost on every axis where the curve is first as good as ``level``, or None where it never is."""
    value, level = (-curve.value, -level) if higher else (curve.value, level)
    slack = 1e-12 * abs(level)  # a mean of equal numbers may differ from them in the last bit
    hits = np.flatnonzero(value <= level + slack)
    if not len(hits):
        return None
    i = int(hits[0])
    if i == 0 or np.isnan(value[i - 1]):
        return {axis: float(cost[i]) for axis, cost in curve.cost.items()}
    part = min(1.0, (value[i - 1] - level) / (value[i - 1] - value[i]))
    return {axis: float(cost[i - 1] + part * (cost[i] - cost[i - 1])) for axis, cost in curve.cost.items()}


def value_at(curve: Curve, axis: str, cost: float | np.ndarray) -> np.ndarray:
    """The metric at a cost, or an array of them; NaN outside the curve and beside a value that is not finite."""
    return np.asarray(np.interp(cost, curve.cost[axis], curve.value, left=np.nan, right=np.nan))


def mean_curve(curves: Sequence[Curve], axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Costs [m] and mean values [m] of the metric over the seeds, from where all have begun to where one ends."""
    costs = [curve.cost[axis] for curve in curves]
    low, high = max(cost[0] for cost in costs), min(cost[-1] for cost in costs)
    grid = np.unique(np.concatenate(costs))
    grid = grid[(grid >= low) & (grid <= high)]
    return grid, np.mean([value_at(curve, axis, grid) for curve in curves], axis=0)


def summary(values: Sequence[float]) -> Summary:
    """Mean and 95 % interval by Student's t."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Summary(mean, None, list(values))
    return Summary(mean, float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n)), list(values))


def best_of(curves: Sequence[Curve], higher: bool = False) -> Best:
    """The best values of an arm's seeds and their costs."""
    values, costs = zip(*(best(curve, higher) for curve in curves), strict=True)
    return Best(summary(values), {axis: _geometric_mean([cost[axis] for cost in costs]) or 0.0 for axis in AXES})


def compare(arms: Mapping[str, Sequence[Curve]], higher: bool = False) -> Comparison:
    """Compare the arms: label -> the curves of its seeds. ``higher``: more of the metric is better."""
    return Comparison(
        {label: best_of(found, higher) for label, found in arms.items()},
        {axis: at_equal(arms, axis) for axis in AXES},
        [pair(arms, arm, other, higher) for arm in arms for other in arms if arm != other],
    )


def pair(arms: Mapping[str, Sequence[Curve]], arm: str, other: str, higher: bool = False) -> Pair:
    """When and how often the seeds of ``arm`` reach the mean best value of ``other``."""
    target = best_of(arms[other], higher)
    points = [reach(curve, target.value.mean, higher) for curve in arms[arm]]
    axes = {}
    for axis in AXES:
        reference = target.cost[axis]
        costs = [None if point is None else point[axis] for point in points]
        factors = [None if cost is None else _factor(reference, cost) for cost in costs]
        axes[axis] = Reach(reference, costs, _geometric_mean(costs), factors, _geometric_mean(factors))
    return Pair(arm, other, target.value.mean, len(points), sum(point is not None for point in points), axes)


def at_equal(arms: Mapping[str, Sequence[Curve]], axis: str) -> Equal:
    """Every arm at the same budget: the largest that all runs have, which may be below what another run inherited."""
    budget = min(float(curve.cost[axis][-1]) for found in arms.values() for curve in found)
    values = {label: [float(value_at(curve, axis, budget)) for curve in found] for label, found in arms.items()}
    return Equal(budget, {label: summary(found) for label, found in values.items()})


def _factor(reference: float, cost: float) -> float:
    if cost == 0:
        return 1.0 if reference == 0 else np.inf
    return reference / cost


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    """Of the values that there are; None where there are none."""
    found = [value for value in values if value is not None]
    with np.errstate(divide="ignore"):  # a cost of 0 makes a mean of 0
        return float(np.exp(np.mean(np.log(found)))) if found else None


def _is_number(value: Any) -> bool:
    """Whether a metrics file means a number: one, or the string of one that JSON lacks."""
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf")
