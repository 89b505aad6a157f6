"""The kernel inception distance: a squared maximum mean discrepancy, without bias whatever the number of samples."""

from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.metrics.distances import checked, same_width


class Spread(NamedTuple):
    """The mean of a metric over parts of the samples, and its standard deviation between them."""

    mean: float
    deviation: float


def kid(fake: np.ndarray, real: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020) -> Spread:
    """KID between features [n, d] and [m, d] (Bińkowski et al. 2018, §4): mean and deviation over random subsets.

    The kernel is (x·y/d + 1)³; each of the ``subsets`` takes ``size`` features from each set without replacement. The
    mean has no bias for any size, and may be below 0. Subsets are those of torch-fidelity for the same ``seed``, where
    ``fake`` is its first input. In float64, since small differences of large means remain.

    Raises ValueError for bad features, differing widths, fewer than ``size`` features, or a size below 2.
    """
    if subsets < 1 or size < 2:
        raise ValueError(f"kid needs subsets ≥ 1 and size ≥ 2, got {subsets} and {size}")
    fake = checked(fake, "fake features for kid", size)
    real = checked(real, "real features for kid", size)
    same_width(fake, real)
    draw = np.random.RandomState(seed)  # not the newer Generator: for the same subsets as others
    values = []
    for _ in range(subsets):
        x = fake[draw.choice(len(fake), size, replace=False)]
        y = real[draw.choice(len(real), size, replace=False)]
        values.append(discrepancy(x, y))
    return Spread(float(np.mean(values)), float(np.std(values)))


def discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy between x [n, d] and y [m, d], n, m ≥ 2, float64.

    Gretton et al. 2012, eq. 3, with the kernel (x·y/d + 1)³.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return _others(x) + _others(y) - 2 * float(_kernel(x, y).mean())


def _others(x: np.ndarray) -> float:
    """The mean of the kernel over pairs of different rows."""
    n = len(x)
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    product = x @ y.T / x.shape[1] + 1
    return product * product * product
