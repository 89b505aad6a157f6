"""Resizing of 8-bit images in whole numbers, so that NumPy and jax give the same pixels, to the bit, on any backend.

The filter is the antialiased triangle: a pixel of the output is the mean of the pixels of the input, weighted by a
triangle that is as wide as two pixels of the coarser of the two. Nothing outside the part that is resized counts.
"""

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

_BITS = 11  # of a weight: 8-bit pixels times two weights then fit 32 bits
_ONE = 1 << _BITS


class Axis(NamedTuple):
    """What happens along one axis of images: ``length`` pixels from ``start`` on become ``size`` pixels from ``place``
    on, int32 [b] each; ``out`` is the side of the output, 0 outside of them, and ``taps`` what `taps` says.
    """

    start: Any
    length: Any
    place: Any
    size: Any
    out: int
    taps: int


def whole(start, length, size: int, side: int) -> Axis:
    """The axis of output that has no margin: ``length`` [b] pixels from ``start`` [b] on, of ``side``, become all."""
    zeros = np.zeros(len(start), np.int32)
    return Axis(start, length, zeros, zeros + np.int32(size), size, taps(side, size))


def taps(length: int, size: int) -> int:
    """How many of at most ``length`` pixels go into one of at least ``size``, at most.

    Raises ValueError where the sums of the weights would not fit 32 bits.
    """
    coarse = max(length, size)
    if 2 * coarse * (coarse // size + 1) > (2**31 - 1) // (2 * _ONE + 1):
        raise ValueError(f"images of {length} pixels a side are too large to be resized to {size}")
    return max(2, -(-2 * length // size))


def resample(images, rows: Axis, columns: Axis):
    """uint8 images [b, h, w, c] -> uint8 [b, rows.out, columns.out, c]; NumPy or jax. Halves are rounded up.

    Weights are rounded to 1/2048 such that they sum to 1: flat areas stay what they are, and a part that keeps its size
    is copied. Raises ValueError for other than uint8.
    """
    xp = images.__array_namespace__()
    values = eight_bits(images).astype("int32")
    values = _along(xp, values, rows)
    values = _along(xp, values.swapaxes(1, 2), columns).swapaxes(1, 2)
    return ((values + (1 << (2 * _BITS - 1))) >> (2 * _BITS)).astype("uint8")


def area(images, factor: int):
    """uint8 images [b, h, w, c] -> uint8 [b, h / factor, w / factor, c], the means of squares; halves are rounded up.

    NumPy or jax. Raises ValueError for other than uint8.
    """
    b, height, width, channels = eight_bits(images).shape
    squares = images.reshape(b, height // factor, factor, width // factor, factor, channels)
    count = factor**2
    return ((2 * squares.astype("int32").sum((2, 4)) + count) // (2 * count)).astype("uint8")


def eight_bits(images):
    """The images, which must be uint8; ValueError otherwise."""
    if images.dtype != "uint8":
        raise ValueError(f"8-bit images are needed to resize them, got {images.dtype}")
    return images


def _along(xp, values, axis: Axis):
    """Sums of the int32 ``values`` [b, side, …] that make up each pixel along their second dimension."""
    index, weight = _weights(xp, axis, values.shape[1])
    image = np.arange(len(values))[:, None]  # with it, whole rows are gathered, which is faster than pixel by pixel
    rows = (values[image, index[:, :, k]] * weight[:, :, k, None, None] for k in range(axis.taps))
    return reduce(lambda total, row: total + row, rows)


def _weights(xp, axis: Axis, side: int):
    """The pixels [b, out, taps] of an axis of ``side`` that each pixel of the output is made of, and their weights.

    In units in which both grids are whole, the centres of input pixel j and output pixel i are at (2j + 1)·size and
    (2i + 1)·length, and the triangle reaches as far as ``reach`` on either side.
    """
    start, length, place, size = (values[:, None, None] for values in axis[:4])
    i = np.arange(axis.out, dtype=np.int32)[None, :, None] - place
    reach, centre = 2 * xp.maximum(length, size), (2 * i + 1) * length
    j = (centre - reach - size) // (2 * size) + 1 + np.arange(axis.taps, dtype=np.int32)[None, None, :]
    weight = xp.maximum(reach - abs((2 * j + 1) * size - centre), 0)
    inside = (j >= 0) & (j < length) & (i >= 0) & (i < size)
    below = xp.cumsum(xp.where(inside, weight, 0), axis=2, dtype="int32")
    total = xp.maximum(below[:, :, -1:], 1)
    below = (2 * below * _ONE + total) // (2 * total)  # rounding sums, not weights, keeps their total at 1
    return xp.clip(start + j, 0, side - 1), xp.diff(below, axis=2, prepend=np.int32(0))
