"""The Fréchet distance between the Gaussians fitted to two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

Features are [n, d] arrays of any kind (pixels here); only their mean and covariance are kept, in float64.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """mean [d] and unbiased covariance [d, d] of ``count`` features, float64; the covariance of one feature is zero.

    A ``count`` of 0 means that nobody knows it: statistics read from a file that does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def statistics(chunks: Iterable[np.ndarray]) -> Statistics:
    """The statistics of a stream of feature chunks [b, d], none of which is kept.

    Raises ValueError where the stream is empty or a chunk is not a finite [b, d] array.
    """
    parts = (_of_chunk(chunk) for chunk in chunks if len(chunk))
    first = next(parts, None)
    if first is None:
        raise ValueError("no features: statistics need at least one")
    return reduce(merge, parts, first)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of the union of two disjoint sets (Chan, Golub & LeVeque 1983, eq. 2.1).

    Raises ValueError for differing widths or a count that is not known.
    """
    _check_widths(a, b)
    if not (a.count and b.count):
        raise ValueError("statistics of unknown count cannot be merged")
    n = a.count + b.count
    delta = b.mean - a.mean
    scatter = a.covariance * (a.count - 1) + b.covariance * (b.count - 1)
    scatter += np.outer(delta, delta) * (a.count * b.count / n)
    return Statistics(a.mean + delta * (b.count / n), scatter / (n - 1), n)


def frechet(a: Statistics, b: Statistics) -> float:
    """‖mean_a - mean_b‖² + tr(S_a + S_b - 2 (S_a^½ S_b S_a^½)^½): a squared distance, real, finite and ≥ 0.

    The trace of that root is the nuclear norm of S_a^½ S_b^½, taken from the singular values themselves: the root of an
    eigenvalue that rounding has moved by 1e-16 would be off by 1e-8, which counts as soon as a covariance is (nearly)
    singular: fewer features than dimensions, or a pixel that never changes.
    Raises ValueError for fewer than 2 features in a set, differing widths, or statistics that are not finite.
    """
    _check_widths(a, b)
    for s in (a, b):
        if s.count == 1:
            raise ValueError(f"a Fréchet distance needs at least 2 samples in each set, got {s.count}")
        if not (np.isfinite(s.mean).all() and np.isfinite(s.covariance).all()):
            raise ValueError("a Fréchet distance needs finite statistics, got NaN or infinity")
    means = np.sum(np.square(a.mean - b.mean))
    cross = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    return max(0.0, float(means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F [d, r] with F Fᵀ = covariance, r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    keep = values > values[-1] * len(values) * np.finfo(values.dtype).eps
    return vectors[:, keep] * np.sqrt(values[keep])


def _of_chunk(features: np.ndarray) -> Statistics:
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features must be [b, d], got shape {list(features.shape)}")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity")
    n = len(features)
    mean = features.mean(axis=0)
    centred = features - mean
    return Statistics(mean, centred.T @ centred / max(n - 1, 1), n)


def _check_widths(a: Statistics, b: Statistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of different widths: {a.mean.size} and {b.mean.size}")
