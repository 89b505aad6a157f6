"""Bilinear resizing, as a matrix product along each axis, in the two ways in which FID implementations do it.

They put the pixels of the result at different places of the image: at corners (TensorFlow 1: pixel i lies at i·in/out)
or at centres (PyTorch: at (i + ½)·in/out - ½). Neither smooths where the image shrinks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.types import Array


def corners(size: int, result: int) -> np.ndarray:
    """Where in an axis of ``size`` pixels those of the ``result`` lie [result]: TensorFlow 1, align_corners=False."""
    return np.arange(result, dtype=np.float32) * np.float32(size / result)


def centres(size: int, result: int) -> np.ndarray:
    """The same with half-pixel centres: PyTorch's ``interpolate``, align_corners=False."""
    middle = (np.arange(result, dtype=np.float32) + np.float32(0.5)) * np.float32(size / result) - np.float32(0.5)
    return np.maximum(middle, np.float32(0))


def matrix(size: int, result: int, places: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """The weights [result, size] of the two pixels around each of ``places``; rows sum to 1. The edge goes on."""
    place = places(size, result)
    low = np.minimum(np.floor(place).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = (place - low).astype(np.float32)
    rows, weights = np.arange(result), np.zeros((result, size), np.float32)
    np.add.at(weights, (rows, low), 1 - share)
    np.add.at(weights, (rows, high), share)
    return weights


def resize(images: Array, side: tuple[int, int], places: Callable[[int, int], np.ndarray] = corners) -> Array:
    """Images [b, h, w, c] of any dtype -> [b, *side, c] float32, not rounded; ``places`` is `corners` or `centres`."""
    rows, columns = (matrix(size, out, places) for size, out in zip(images.shape[1:3], side, strict=True))
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, images.astype(jnp.float32), columns, precision=exact)
