"""Fidelity and diversity by nearest neighbours: precision and recall, density and coverage.

Every set is the union of balls around its points, each as large as the distance to its k-th nearest other point.
"""

from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.metrics.balls import Counts, count
from maskdiff_jax.evaluate.metrics.distances import checked
from maskdiff_jax.evaluate.metrics.neighbours import Nearest, others


class PRDC(NamedTuple):
    """Precision, recall and coverage are shares; density is ≥ 0 and about 1 where the distributions agree."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(fake: np.ndarray, real: np.ndarray, k: int = 3, k_density: int = 5) -> PRDC:
    """All four of features [n, d] and [m, d]; ``k`` neighbours for precision and recall, ``k_density`` for the rest.

    See `precision`, `density` and `coverage`. Raises ValueError for bad features, differing widths or too few of them.
    """
    _check(k, k_density)
    most = max(k, k_density)
    fake, real = checked(fake, "fake features", k + 1), checked(real, "real features", most + 1)
    of_real = count(fake, real, radii(others(real, most, "real features"), k, k_density))
    of_fake = count(real, fake, radii(others(fake, k, "fake features"), k))
    return PRDC(precision(of_real), precision(of_fake), density(of_real, k_density), coverage(of_real))


def radii(near: Nearest, k: int, k_density: int | None = None) -> np.ndarray:
    """Squared radii [1 or 2, m] for `count`: closed balls to the k-th neighbour, then open ones to the k_density-th.

    Kynkäänniemi et al. define closed balls. Naeem et al. do not say; their code has open ones, with which the density
    of a set against itself is 1. Raises ValueError for less than 1 neighbour.
    """
    _check(k, k_density)
    closed = near.squares[:, k - 1]
    if k_density is None:
        return closed[None]
    return np.stack([closed, np.nextafter(near.squares[:, k_density - 1], -1)])


def precision(held: Counts) -> float:
    """The share of points that lie in at least one ball (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    With generated points and balls around real ones it is the precision, the other way round the recall.
    """
    return float(np.mean(held.of_points[0] > 0))


def density(held: Counts, k_density: int) -> float:
    """How many of the balls around real points hold a generated one, over k (Naeem et al. 2020, arXiv 2002.09797)."""
    return float(held.of_points[1].mean() / k_density)


def coverage(held: Counts) -> float:
    """The share of the balls around real points that hold a generated one (Naeem et al. 2020)."""
    return float(np.mean(held.of_balls[1] > 0))


def _check(k: int, k_density: int | None) -> None:
    if k < 1 or (k_density is not None and k_density < 1):
        raise ValueError(f"balls need at least 1 neighbour, got k={k} and k_density={k_density}")
