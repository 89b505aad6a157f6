"""Distances between two sets of features, all pairs, without keeping them: bounds in float32, exact where it matters.

A block of pairs goes through one float32 matrix product, on whatever device there is. That form of a distance,
|q|² + |r|² - 2 q·r, cancels: near a boundary its rounding could decide. So a block yields a lower and an upper bound of
each squared distance, and the few pairs that the bounds leave open are taken again from the difference itself, in
float64. What is counted or chosen is then exact, ties included, and does not depend on the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.evaluate.pixels import blocks
from maskdiff_jax.types import Array

BLOCK = (512, 2048)  # queries by references: their pairs, 4 MB of float32, stay near the processor
_CHUNK = 1 << 21  # numbers of float64 at a time in differences
_TINY = 1e-30  # far above what float32 flushes to zero, far below a distance between scaled features


class Frame(NamedTuple):
    """How features enter float32: minus ``centre`` [d], times ``scale``, a power of 2; norms are 1 at most."""

    centre: np.ndarray
    scale: float


class Placed(NamedTuple):
    """A block in its frame: ``points`` float32 [b, d] and squared ``norms`` float32 [b], infinite where filled up."""

    points: Array | np.ndarray
    norms: Array | np.ndarray


def checked(features: np.ndarray, name: str, least: int = 1) -> np.ndarray:
    """``features`` as float [n, d]. Raises ValueError, by ``name``, for another shape or kind, NaN or n < ``least``."""
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} must be [n, d] with d ≥ 1, got shape {list(features.shape)}")
    if len(features) < least:
        raise ValueError(f"{name}: at least {least} needed, got {len(features)}")
    if features.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, got {features.dtype}")
    for start in range(0, len(features), BLOCK[1]):
        bad = ~np.isfinite(features[start : start + BLOCK[1]]).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name} hold NaN or infinity, first in row {start + int(bad.argmax())} of {len(features)}"
            )
    return features


def same_width(a: np.ndarray, b: np.ndarray) -> None:
    """Raises ValueError where features a [n, d] and b [m, d] differ in d."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of different widths: {a.shape[1]} and {b.shape[1]}")


def frame(a: np.ndarray, b: np.ndarray) -> Frame:
    """The frame of two sets [n, d] and [m, d]: bounds are the tighter, the nearer the features are to its centre."""
    centre = (a.mean(axis=0, dtype=np.float64) + b.mean(axis=0, dtype=np.float64)) / 2
    largest = max(np.abs(part - centre).sum(axis=1).max() for both in (a, b) for part in blocks(both, BLOCK[1]))
    if 1e-30 < largest < 1e30:
        centre = centre.astype(np.float32)  # any centre will do, and float32 features need not become float64 for this
    return Frame(centre, float(np.ldexp(1.0, -int(np.frexp(largest)[1]))))


def norms(features: np.ndarray, axes: Frame) -> np.ndarray:
    """Squared norms float32 [n] in the frame, summed in float64."""
    parts = ((part - axes.centre) * axes.scale for part in blocks(features, BLOCK[1]))
    return np.concatenate([np.square(part, dtype=np.float64).sum(axis=1).astype(np.float32) for part in parts])


def place(features: np.ndarray, norms: np.ndarray, axes: Frame, rows: int) -> Placed:
    """A block [b, d], b ≤ ``rows``, filled up to ``rows`` with points infinitely far away: one shape, one program."""
    filled, far = np.zeros((rows, features.shape[1]), np.float32), np.full(rows, np.inf, np.float32)
    filled[: len(features)] = (features - axes.centre) * axes.scale
    far[: len(features)] = norms
    return Placed(filled, far)


def rows_for(count: int, block: int) -> int:
    """How many rows a block of ``count`` features has: ``block``, or a power of 2 from 256 that holds a smaller set."""
    return min(block, max(256, 1 << (count - 1).bit_length()))


def bounds(q: Placed, r: Placed) -> tuple[Array, Array]:
    """A lower and an upper bound [b, c] of the squared distances in the frame, for use inside a jitted function.

    A float32 product of d terms errs by at most d·u·|q||r|, u = 2^-24, in whatever order it is summed (Higham 2002,
    §3.1); with the rounding of the inputs, norms and sums that is less than (d + 16)·u·(|q|² + |r|²).
    """
    slack = (q.points.shape[1] + 16) * 2.0**-24
    norms = jnp.expand_dims(q.norms, 1) + jnp.expand_dims(r.norms, 0)
    twice = 2 * jnp.matmul(q.points, r.points.T, precision=jax.lax.Precision.HIGHEST)
    return (1 - slack) * norms - twice, (1 + slack) * norms - twice


def above(squares: np.ndarray, axes: Frame) -> np.ndarray:
    """float32 numbers in the frame that are larger than ``squares`` (float64, unscaled)."""
    return (squares * axes.scale**2 * (1 + 2.0**-22) + _TINY).astype(np.float32)


def below(squares: np.ndarray, axes: Frame) -> np.ndarray:
    """float32 numbers in the frame that are smaller than ``squares`` (float64, unscaled)."""
    return (squares * axes.scale**2 * (1 - 2.0**-22) - _TINY).astype(np.float32)


def squared(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """|a[i] - b[j]|² [p] of chosen pairs, float64, from the differences: 0 for copies, and the same for (j, i)."""
    result = np.empty(len(i))
    step = max(1, _CHUNK // a.shape[1])
    for start in range(0, len(i), step):
        some = slice(start, start + step)
        result[some] = np.square(np.subtract(a[i[some]], b[j[some]], dtype=np.float64)).sum(axis=1)
    return result
