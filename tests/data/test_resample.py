"""Resizing in whole numbers: against Pillow's filter in floating point, and what must be exact."""

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.resample import Axis, area, resample, taps, whole
from tests.data.conftest import numbered

SIZES = [(8, 12), (12, 8), (32, 8), (9, 7), (7, 9), (31, 16), (64, 5), (5, 64), (6, 1), (1, 3)]  # from, to


def reference(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w, c] -> float64 [height, width, c]: Pillow's antialiased triangle, of one float plane at a time."""
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR), np.float64) for p in planes], -1)


def resize(images, height, width):
    rows, columns = (
        whole(np.zeros(len(images), np.int32), np.full(len(images), length, np.int32), size, length)
        for length, size in zip(images.shape[1:3], (height, width), strict=True)
    )
    return resample(images, rows, columns)


@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_antialiased_triangle(sizes):
    """Of noise, and of 0 and 255 alone: within 0.6 of a level of the exact mean, of which rounding is 0.5."""
    length, size = sizes
    images = numbered(4, (length, length + 3, 2)).image
    images = np.concatenate([images, np.where(images < 128, 0, 255).astype(np.uint8)])
    exact = np.stack([reference(image, size, size + 2) for image in images])
    assert np.abs(resize(images, size, size + 2) - exact).max() < 0.6


@pytest.mark.parametrize("sizes", SIZES)
def test_mirrored_images_become_mirrored_images(sizes):
    """To the bit, though weights are rounded: a flip before resizing is one after it."""
    length, size = sizes
    images = numbered(20, (length, length + 3, 2)).image
    mirrored = resize(images[:, ::-1, ::-1], size, size + 2)
    np.testing.assert_array_equal(mirrored, resize(images, size, size + 2)[:, ::-1, ::-1])


@pytest.mark.parametrize("sizes", [(8, 12), (32, 8), (9, 7), (64, 5)])
def test_flat_images_stay_what_they_are(sizes):
    length, size = sizes
    images = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, length, length, 1))
    np.testing.assert_array_equal(resize(images, size, size), np.broadcast_to(images[:, :1, :1], (256, size, size, 1)))


def test_what_keeps_its_size_is_copied():
    """Parts of any place and length, put anywhere, with 0 around them."""
    images = numbered(50, (7, 9, 2)).image
    draw = np.random.default_rng(0)
    length = draw.integers(1, 6, (2, 50)).astype(np.int32)
    start = draw.integers(0, [[7], [9]] - length + 1).astype(np.int32)
    place = draw.integers(0, 12 - length + 1).astype(np.int32)
    axes = [Axis(start[i], length[i], place[i], length[i], 12, taps(9, 1)) for i in (0, 1)]
    expected = np.zeros((50, 12, 12, 2), np.uint8)
    for i, ((h, w), (top, left), (y, x)) in enumerate(zip(length.T, start.T, place.T, strict=True)):
        expected[i, y : y + h, x : x + w] = images[i, top : top + h, left : left + w]
    np.testing.assert_array_equal(resample(images, *axes), expected)


def test_large_images_overflow_nothing_or_are_refused():
    """White stays white at the largest side that is not refused."""
    side = max(side for side in range(256, 4096, 64) if not refused(side, 16))
    assert 1024 < side < 4000 and not refused(8192, 512)
    images = np.full((1, side, 8, 1), 255, np.uint8)
    assert (resize(images, 16, 8) == 255).all()


def refused(side, size):
    try:
        return not taps(side, size)
    except ValueError as error:
        assert f"{side} pixels a side are too large to be resized to {size}" in str(error)
        return True


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_area_is_the_mean_of_squares(factor):
    images = numbered(20, (6, 12, 2)).image
    squares = images.reshape(20, 6 // factor, factor, 12 // factor, factor, 2).astype(float)
    np.testing.assert_array_equal(area(images, factor), np.floor(squares.mean(axis=(2, 4)) + 0.5))


def test_other_pixels_are_refused():
    with pytest.raises(ValueError, match="8-bit images are needed to resize them, got float32"):
        area(np.zeros((1, 4, 4, 1), np.float32), 2)
