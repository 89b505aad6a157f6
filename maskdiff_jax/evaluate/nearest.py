"""How far samples are from the nearest training image: small beside the same for held-out images means copying."""

import numpy as np

from maskdiff_jax.evaluate.pixels import blocks, features

TREE_LIMIT = 16  # numbers in an image up to which a k-d tree is faster than comparing all pairs


def nearest(queries: np.ndarray, references: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of every query: Euclidean distances [n] (float64) and indices [n].

    Images are float [n, h, w, c] and [m, h, w, c] in [-1, 1]. The search is a matrix product in blocks of ``block`` by
    ``block`` pairs, so that memory does not grow with n·m; the winner's distance is then taken from the difference
    itself, hence exactly 0 for a copy. Raises ValueError for an empty set, mixed sizes, integer images or a NaN.
    """
    distances, indices = closest(queries, references, 1, block)
    return distances[:, 0], indices[:, 0]


def closest(queries: np.ndarray, references: np.ndarray, k: int, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest references of every query, nearest first: distances and indices [n, k]; see `nearest`."""
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"images of different shapes: {list(queries.shape[1:])} and {list(references.shape[1:])}")
    if not len(queries) or len(references) < k:
        few = "non-empty sets" if k == 1 else f"a query and {k} references"
        raise ValueError(f"nearest images need two {few}, got {len(queries)} and {len(references)}")
    if queries[0].size <= TREE_LIMIT:
        return _closest_by_tree(features(queries), features(references), k)
    pairs = [_closest_of_block(q, features(references), k, block) for q in blocks(features(queries), block)]
    distances, indices = zip(*pairs, strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> float:
    """The mean Euclidean distance from an image of ``queries`` to its nearest in ``references``; see `nearest`."""
    return float(nearest(queries, references)[0].mean())


def copied_share(queries: np.ndarray, references: np.ndarray, ratio: float = 1 / 3) -> float:
    """The share of ``queries`` that are copies: d1/d2 < ``ratio``, the distances to their two nearest references.

    A picture that is much nearer to one training image than to any other was taken from it (Gu et al. 2023, arXiv
    2310.02664). Raises ValueError as `nearest`, and for fewer than two references.
    """
    distances, _ = closest(queries, references, 2)
    return float(np.mean(distances[:, 0] < ratio * distances[:, 1]))


def _closest_by_tree(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import KDTree  # takes a while to import

    if not (np.isfinite(queries).all() and np.isfinite(references).all()):
        raise ValueError("images hold NaN or infinity")
    distances, index = KDTree(references.astype(np.float64)).query(queries.astype(np.float64), k)
    return distances.reshape(-1, k), index.reshape(-1, k)


def _closest_of_block(queries: np.ndarray, references: np.ndarray, k: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    queries = queries.astype(np.float64)
    best, index = np.full((len(queries), k), np.inf), np.zeros((len(queries), k), np.int64)
    for start in range(0, len(references), block):
        chunk = references[start : start + block].astype(np.float64)
        scores = np.square(chunk).sum(axis=1)[None, :] - 2 * queries @ chunk.T  # |q - r|² - |q|²
        if not np.isfinite(scores).all():
            raise ValueError("images hold NaN or infinity")
        few = np.argpartition(scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        scores = np.concatenate([best, np.take_along_axis(scores, few, axis=1)], axis=1)
        few = np.concatenate([index, start + few], axis=1)
        order = np.argsort(scores, axis=1, kind="stable")[:, :k]
        best, index = np.take_along_axis(scores, order, axis=1), np.take_along_axis(few, order, axis=1)
    distances = np.linalg.norm(queries[:, None] - references[index], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(index, order, axis=1)
