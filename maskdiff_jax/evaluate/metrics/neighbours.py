"""The nearest references of every query, exactly and in bounded memory."""

import hashlib
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from maskdiff_jax.evaluate.metrics.distances import (
    BLOCK,
    Frame,
    Placed,
    above,
    bounds,
    checked,
    frame,
    norms,
    place,
    rows_for,
    same_width,
    squared,
)
from maskdiff_jax.evaluate.pixels import blocks
from maskdiff_jax.types import Array


class Nearest(NamedTuple):
    """The k nearest of n queries, nearest first: ``squares`` of Euclidean distances float64 and ``indices`` [n, k].

    Where distances tie, the lower index comes first; exact copies of one reference stay together.
    """

    squares: np.ndarray
    indices: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        """Euclidean distances [n, k], ascending."""
        return np.sqrt(self.squares)

    def first(self, k: int) -> "Nearest":
        """The ``k`` nearest alone."""
        return Nearest(self.squares[:, :k], self.indices[:, :k])


def nearest(
    queries: np.ndarray,
    references: np.ndarray,
    k: int = 1,
    names: tuple[str, str] = ("queries", "references"),
    block: tuple[int, int] = BLOCK,
) -> Nearest:
    """The ``k`` nearest of features ``references`` [m, d] for each of ``queries`` [n, d], float32 or float64.

    Blocks of pairs are bounded in float32 (see `distances`), some candidates more than k are kept of each, and these
    are measured again in float64. A query whose k-th candidate the bounds do not separate from the rest is searched
    once more among all that could be nearer. References that are copies of each other are searched once.
    Raises ValueError, with ``names``, for bad features, differing widths, fewer than ``k`` references or k < 1.
    """
    if k < 1:
        raise ValueError(f"nearest {names[1]}: k must be at least 1, got {k}")
    queries, references = checked(queries, names[0]), checked(references, names[1], k)
    same_width(queries, references)
    group = _copies(references)
    distinct = np.flatnonzero(group == np.arange(len(group)))
    if len(distinct) == len(references):
        return _search(queries, references, k, block)
    found = _search(queries, references[distinct], min(k, len(distinct)), block)
    return _with_copies(found, np.argsort(group, kind="stable"), np.bincount(group)[distinct], k)


def others(points: np.ndarray, k: int = 1, name: str = "features", block: tuple[int, int] = BLOCK) -> Nearest:
    """The ``k`` nearest of the other points for each of ``points`` [n, d]; see `nearest`.

    Raises ValueError, with ``name``, for bad features or fewer than k + 1 of them.
    """
    points = checked(points, name, k + 1)
    found = nearest(points, points, k + 1, (name, name), block)
    itself = found.indices == np.arange(len(points))[:, None]
    itself[~itself.any(axis=1), k] = True  # more than k copies of it came first: all are at 0
    return Nearest(found.squares[~itself].reshape(-1, k), found.indices[~itself].reshape(-1, k))


def _search(queries: np.ndarray, references: np.ndarray, k: int, block: tuple[int, int]) -> Nearest:
    """`nearest` among distinct references."""
    axes = frame(queries, references)
    b, c = rows_for(len(queries), block[0]), rows_for(len(references), block[1])
    keep = 8 + 8 * -(-k // 8)  # candidates: few numbers of them, so that few programs are compiled
    far = norms(references, axes)
    parts = []
    for some in blocks(queries, b):
        placed = place(some, norms(some, axes), axes, b)
        lows, indices = [], []
        for first in range(0, len(references), c):
            few = slice(first, first + c)
            low, index = _lowest(placed, place(references[few], far[few], axes, c), min(c, keep))
            lows.append(np.asarray(low)[: len(some)])
            indices.append(np.asarray(index)[: len(some)] + first)
        low, index = np.concatenate(lows, axis=1), np.concatenate(indices, axis=1)
        if low.shape[1] > keep:
            few = np.argpartition(low, keep - 1, axis=1)[:, :keep]
            low, index = np.take_along_axis(low, few, axis=1), np.take_along_axis(index, few, axis=1)
        best = _exact(some, references, low, index, k)
        last = low.max(axis=1)  # whatever was not kept is at least this far
        open_ = np.flatnonzero(above(best.squares[:, -1], axes) >= last)
        if len(open_):
            again = _search_again(some[open_], references, far, best.squares[open_, -1], k, axes, (b, c))
            best.squares[open_], best.indices[open_] = again
        parts.append(best)
    return Nearest(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _exact(queries: np.ndarray, references: np.ndarray, low: np.ndarray, index: np.ndarray, k: int) -> Nearest:
    """The k nearest of the candidates ``index`` [b, keep]; those with an infinite bound are no references."""
    index = np.where(np.isfinite(low), index, 0)
    rows = np.broadcast_to(np.arange(len(queries))[:, None], index.shape)
    squares = squared(queries, rows.ravel(), references, index.ravel()).reshape(index.shape)
    squares = np.where(np.isfinite(low), squares, np.inf)
    order = np.lexsort((index, squares), axis=1)[:, :k]
    return Nearest(np.take_along_axis(squares, order, axis=1), np.take_along_axis(index, order, axis=1))


def _search_again(
    queries: np.ndarray,
    references: np.ndarray,
    far: np.ndarray,
    limits: np.ndarray,
    k: int,
    axes: Frame,
    block: tuple[int, int],
) -> Nearest:
    """The k nearest, where at least k are within the squares ``limits`` [b]: all that may be within are measured."""
    rows, columns, squares = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    b, c = rows_for(len(queries), block[0]), block[1]
    placed = place(queries, norms(queries, axes), axes, b)
    most = np.full(b, -np.inf, np.float32)
    most[: len(queries)] = above(limits, axes)
    for first in range(0, len(references), c):
        few = slice(first, first + c)
        i, j = np.nonzero(np.asarray(_within(placed, place(references[few], far[few], axes, c), most)))
        j += first
        rows, columns = np.concatenate([rows, i]), np.concatenate([columns, j])
        squares = np.concatenate([squares, squared(queries, i, references, j)])
        order = np.lexsort((columns, squares, rows))
        rows, columns, squares = rows[order], columns[order], squares[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        rows, columns, squares = rows[rank < k], columns[rank < k], squares[rank < k]
    return Nearest(squares.reshape(-1, k), columns.reshape(-1, k))


@partial(jax.jit, static_argnames="keep")
def _lowest(q: Placed, r: Placed, keep: int) -> tuple[Array, Array]:
    low, index = jax.lax.top_k(-bounds(q, r)[0], keep)
    return -low, index


@jax.jit
def _within(q: Placed, r: Placed, most: Array) -> Array:
    return bounds(q, r)[0] <= most[:, None]


def _copies(features: np.ndarray) -> np.ndarray:
    """The index [m] of the first row that is bit for bit the same as each row."""
    rows = np.ascontiguousarray(features)
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(rows))


def _with_copies(found: Nearest, order: np.ndarray, counts: np.ndarray, k: int) -> Nearest:
    """The k nearest, from those among distinct references: ``counts`` copies of each, at ``order`` in a row."""
    here = counts[found.indices]
    ends = np.cumsum(here, axis=1)
    slots = np.arange(k)
    which = (ends[:, :, None] <= slots).sum(axis=1)
    starts = (np.cumsum(counts) - counts)[found.indices] - (ends - here)
    index = order[np.take_along_axis(starts, which, axis=1) + slots]
    return Nearest(np.take_along_axis(found.squares, which, axis=1), index)
