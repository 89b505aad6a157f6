"""How far samples are from the nearest training image: small beside the same for held-out images means copying."""

import numpy as np

from maskdiff_jax.evaluate.pixels import blocks, features


def nearest(queries: np.ndarray, references: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of every query: Euclidean distances [n] (float64) and indices [n].

    Images are float [n, h, w, c] and [m, h, w, c] in [-1, 1]. The search is a matrix product in blocks of ``block`` by
    ``block`` pairs, so that memory does not grow with n·m; the winner's distance is then taken from the difference
    itself, hence exactly 0 for a copy. Raises ValueError for an empty set, mixed sizes, integer images or a NaN.
    """
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"images of different shapes: {list(queries.shape[1:])} and {list(references.shape[1:])}")
    if not (len(queries) and len(references)):
        raise ValueError(f"nearest images need two non-empty sets, got {len(queries)} and {len(references)}")
    pairs = [_nearest_of_block(q, features(references), block) for q in blocks(features(queries), block)]
    distances, indices = zip(*pairs, strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> float:
    """The mean Euclidean distance from an image of ``queries`` to its nearest in ``references``; see `nearest`."""
    return float(nearest(queries, references)[0].mean())


def _nearest_of_block(queries: np.ndarray, references: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    queries = queries.astype(np.float64)
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), np.int64)
    for start in range(0, len(references), block):
        chunk = references[start : start + block].astype(np.float64)
        scores = np.square(chunk).sum(axis=1)[None, :] - 2 * queries @ chunk.T  # |q - r|² - |q|²
        if not np.isfinite(scores).all():
            raise ValueError("images hold NaN or infinity")
        winner = scores.argmin(axis=1)
        score = np.take_along_axis(scores, winner[:, None], axis=1)[:, 0]
        index = np.where(score < best, start + winner, index)
        best = np.minimum(score, best)
    return np.linalg.norm(queries - references[index], axis=1), index
