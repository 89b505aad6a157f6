"""The sliced Wasserstein distance between two sets of points: the mean transport cost of their shadows on a line.

It needs no density and no features, which suits data of a few dimensions (the Swiss roll). Between two finite sets from
one distribution it is not 0 but falls as 1/√n: read it beside `sliced_wasserstein_reference`.
"""

import numpy as np

from maskdiff_jax.evaluate.pixels import blocks

_BLOCK = 32  # directions at a time: bounds the memory, and keeps what is sorted in the cache


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, projections: int = 256, order: float = 2, seed: int = 0) -> float:
    """SW_p = (mean over directions θ of W_p(⟨a, θ⟩, ⟨b, θ⟩)^p)^(1/p) between points a [n, d] and b [m, d].

    p is ``order``. Rabin et al. 2012; Bonneel et al. 2015. On a line W_p^p is the integral over [0, 1] of the p-th
    power of the distance between the two quantile functions. For samples these are steps, so the integral is an exact
    sum, also where n and m differ. The ``projections`` directions are uniform on the sphere and depend on ``seed`` and
    d alone: distances of one seed compare. The mean over them is the one thing estimated (d = 1: exact). In float64.

    Raises ValueError for an empty set, another rank, differing widths, a NaN, no projection or an order below 1.
    """
    a, b = _checked(a), _checked(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"points of different widths: {a.shape[1]} and {b.shape[1]}")
    if projections < 1 or not 1 <= order < np.inf:
        raise ValueError(f"projections and order must be at least 1 and finite, got {projections} and {order}")
    theta = np.random.Generator(np.random.Philox(key=seed)).standard_normal((projections, a.shape[1]))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    i, j, share = _pairs(len(a), len(b))
    total = 0.0
    for some in blocks(theta, _BLOCK):
        gap = np.abs(np.sort(some @ a.T)[:, i] - np.sort(some @ b.T)[:, j])
        total += np.sum(gap**order @ share)
    return float((total / projections) ** (1 / order))


def sliced_wasserstein_reference(
    points: np.ndarray, projections: int = 256, order: float = 2, repeats: int = 4, seed: int = 0
) -> float:
    """What `sliced_wasserstein` reads between two random halves of points [n, d], the mean over ``repeats`` splits.

    Two halves of n independent points are two fresh sets of n/2: it is the scale by which to read a distance between
    sets of that size. ``seed`` decides the splits and the directions.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(points)) for _ in range(repeats)]
    half = len(points) // 2
    pairs = [(points[split[:half]], points[split[half:]]) for split in orders]
    return float(np.mean([sliced_wasserstein(a, b, projections, order, seed) for a, b in pairs]))


def _pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which sorted point of n goes to which of m, and the share of the mass that does: i [k], j [k], share [k].

    Levels of the two quantile functions are counted in whole units of 1/(n·m), so that no step is lost to rounding.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _checked(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"points must be [n, d] with n ≥ 1 and d ≥ 1, got shape {list(points.shape)}")
    if not np.isfinite(points).all():
        raise ValueError("points hold NaN or infinity")
    return points
