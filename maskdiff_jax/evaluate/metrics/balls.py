"""How many balls hold a point, and how many points a ball holds: what precision, recall, density and coverage count."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.evaluate.metrics.distances import (
    BLOCK,
    Placed,
    above,
    below,
    bounds,
    checked,
    frame,
    norms,
    place,
    rows_for,
    same_width,
    squared,
)
from maskdiff_jax.types import Array


class Counts(NamedTuple):
    """``of_points`` [s, n]: the balls that hold each point; ``of_balls`` [s, m]: the points that each ball holds."""

    of_points: np.ndarray
    of_balls: np.ndarray


def count(points: np.ndarray, centres: np.ndarray, squares: np.ndarray, block: tuple[int, int] = BLOCK) -> Counts:
    """Counts between ``points`` [n, d] and closed balls around ``centres`` [m, d], for s sets of radii at once.

    ``squares`` float64 [s, m] are the squared radii; a negative one holds nothing, so that ``np.nextafter(square,
    -1)`` is an open ball. The counts are exact (see `distances`): a point at the very radius is held.
    Raises ValueError for bad features, differing widths, or radii that are not [s, m] numbers.
    """
    points, centres = checked(points, "points"), checked(centres, "centres")
    same_width(points, centres)
    if squares.ndim != 2 or squares.shape[1] != len(centres) or np.isnan(squares).any():
        raise ValueError(f"radii must be numbers [s, {len(centres)}], got shape {list(squares.shape)} or NaN")
    axes = frame(points, centres)
    b, c = rows_for(len(points), block[0]), rows_for(len(centres), block[1])
    near, far = norms(points, axes), norms(centres, axes)
    s, n, m = len(squares), len(points), len(centres)
    of_points, of_balls = np.zeros((s, n), np.int64), np.zeros((s, m), np.int64)
    for start in range(0, n, b):
        some = slice(start, min(start + b, n))
        placed = place(points[some], near[some], axes, b)
        for first in range(0, m, c):
            few = slice(first, min(first + c, m))
            limits = np.full((2, s, c), -np.inf, np.float32)
            limits[:, :, : few.stop - first] = below(squares[:, few], axes), above(squares[:, few], axes)
            rows, columns, unsure = _count(placed, place(centres[few], far[few], axes, c), *limits)
            of_points[:, some] += np.asarray(rows)[:, : some.stop - start]
            of_balls[:, few] += np.asarray(columns)[:, : few.stop - first]
            which, i, j = np.nonzero(np.asarray(unsure))
            held = squared(points, i + start, centres, j + first) <= squares[which, j + first]
            np.add.at(of_points, (which[held], i[held] + start), 1)
            np.add.at(of_balls, (which[held], j[held] + first), 1)
    return Counts(of_points, of_balls)


@jax.jit
def _count(q: Placed, r: Placed, below: Array, above: Array) -> tuple[Array, Array, Array]:
    """Pairs that are surely inside, by point [s, b] and by ball [s, c], and which may or may not be, bool [s, b, c]."""
    low, high = bounds(q, r)
    inside = [high <= limit[None, :] for limit in below]
    unsure = [(low <= limit[None, :]) & ~sure for limit, sure in zip(above, inside, strict=True)]
    rows = jnp.stack([sure.sum(axis=1) for sure in inside])
    columns = jnp.stack([sure.sum(axis=0) for sure in inside])
    return rows, columns, jnp.stack(unsure)
