"""How far samples are from the nearest training image: small beside the same for held-out images means copying."""

import numpy as np

from maskdiff_jax.evaluate.metrics import memorisation, neighbours
from maskdiff_jax.evaluate.pixels import features

TREE_LIMIT = 16  # numbers in an image up to which a k-d tree is faster than comparing all pairs


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of every query: Euclidean distances [n] (float64) and indices [n].

    Images are float [n, h, w, c] and [m, h, w, c] in [-1, 1]. Memory does not grow with n·m, and the distance of a copy
    is exactly 0: see `metrics.neighbours`. Raises ValueError for an empty set, mixed sizes, integer images or a NaN.
    """
    distances, indices = closest(queries, references, 1)
    return distances[:, 0], indices[:, 0]


def closest(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest references of every query, nearest first: distances and indices [n, k]; see `nearest`."""
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"images of different shapes: {list(queries.shape[1:])} and {list(references.shape[1:])}")
    if not len(queries) or len(references) < k:
        few = "non-empty sets" if k == 1 else f"a query and {k} references"
        raise ValueError(f"nearest images need two {few}, got {len(queries)} and {len(references)}")
    if queries[0].size <= TREE_LIMIT:
        return _closest_by_tree(features(queries), features(references), k)
    found = neighbours.nearest(features(queries), features(references), k, ("images", "reference images"))
    return found.distances, found.indices


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> float:
    """The mean Euclidean distance from an image of ``queries`` to its nearest in ``references``; see `nearest`."""
    return float(nearest(queries, references)[0].mean())


def copied_share(queries: np.ndarray, references: np.ndarray, ratio: float = 1 / 3) -> float:
    """The share of ``queries`` that are copies: d1/d2 < ``ratio``, the distances to their two nearest references.

    See `metrics.memorisation.copied_share`. Raises ValueError as `nearest`, and for fewer than two references.
    """
    return share_of_copies(closest(queries, references, 2)[0], ratio)


def share_of_copies(distances: np.ndarray, ratio: float = 1 / 3) -> float:
    """`copied_share` from the distances [n, 2] to the two nearest references."""
    return memorisation.copied_share(neighbours.Nearest(np.square(distances), np.zeros(distances.shape, int)), ratio)


def _closest_by_tree(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import KDTree  # takes a while to import

    if not (np.isfinite(queries).all() and np.isfinite(references).all()):
        raise ValueError("images hold NaN or infinity")
    distances, index = KDTree(references.astype(np.float64)).query(queries.astype(np.float64), k)
    return distances.reshape(-1, k), index.reshape(-1, k)
