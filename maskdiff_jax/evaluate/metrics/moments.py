"""Mean and covariance of features that are never kept, and the distances that need no more: FID and sFID."""

import numpy as np

from maskdiff_jax.evaluate.frechet import Statistics, frechet, merge, statistics
from maskdiff_jax.evaluate.metrics.distances import checked
from maskdiff_jax.evaluate.pixels import blocks

Moments = Statistics


def moments(features: np.ndarray, name: str = "features", block: int = 4096) -> Moments:
    """The moments, in float64, of features [n, d], ``block`` rows at a time.

    Raises ValueError, with ``name``, for another shape, no rows or a NaN.
    """
    return statistics(blocks(checked(features, name), block))


def add(seen: Moments | None, features: np.ndarray, name: str = "features") -> Moments:
    """The moments of what was ``seen`` (None: nothing yet) together with a batch of features [b, d].

    Exact in float64 whatever the batches are; each costs b·d² and some passes over d² numbers, so batches of hundreds
    are cheapest. Raises ValueError as `moments`, and where the widths differ.
    """
    batch = moments(features, name)
    return batch if seen is None else merge(seen, batch)


def fid(fake: Moments, real: Moments) -> float:
    """The Fréchet inception distance (Heusel et al. 2017, eq. 6), which is 0 between a set and itself.

    Of pooled features it is FID, of spatial ones sFID (Nash et al. 2021, arXiv 2103.03841). It is biased upwards by
    about 1/n: compare sets of one size. Real, finite and ≥ 0 also where n < d. Raises ValueError as `frechet`.
    """
    return frechet(fake, real)
