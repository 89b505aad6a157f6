"""Crop policies: which part of an original an image shows, and at how many pixels.

All cut a window at whole pixels of the stored original and resize it, with nothing from outside of it. What they record
is the window in pixels of the stored original: ``crop_top``, ``crop_left``, ``crop_height``, ``crop_width``, and
``flip``, which comes after the cut, so that the window is where it is in the original. Berrada Ifriqi et al. 2024
(arXiv 2411.03177) condition on these; how the windows are drawn is not specified by the paper.
"""

from collections.abc import Callable

import numpy as np

from maskdiff_jax.data.augment import Augment, Controls, ImageShape, compose, flip
from maskdiff_jax.data.philox import uniform
from maskdiff_jax.data.resample import area, resample, taps, whole

NAMES = ("crop_top", "crop_left", "crop_height", "crop_width")


def resize_centre(size: int, rate: float = 0.0) -> Augment:
    """The central square as [size, size], mirrored with probability ``rate``. Held-out images are not mirrored.

    Raises ValueError for a ``size`` below 1 or above a side of the images, or a ``rate`` that is no probability.
    """
    return compose(_central(size), flip(rate))


def random_crop(size: int, rate: float = 0.0) -> Augment:
    """A square that spans the shorter side, at a uniformly random place along the longer one, as [size, size].

    In units of the resized image, whose shorter side is ``size``, its corner is (``crop_top``, ``crop_left``)·size /
    ``crop_height``, as SDXL records it (Podell et al. 2023, arXiv 2307.01952, section 2.2). Mirrored with probability
    ``rate``; held-out images are as those of `resize_centre`. Raises ValueError as that does.
    """
    return compose(_random(f"random_crop(size={size})", size, 1.0, 1.0, 1.0), flip(rate))


def local_crop(size: int, low: float = 0.5, high: float = 1.0, ratio: float = 1.0, rate: float = 0.0) -> Augment:
    """A window whose side, relative to the shorter side of the image, is uniform in [low, high], as [size, size].

    Its place is uniform. ``ratio`` above 1 draws windows of unequal sides, width / height log-uniform in [1/ratio,
    ratio] at the area of the square, which are squeezed into one. Mirrored with probability ``rate``; held-out images
    are as those of `resize_centre`. The ranges are not specified by the paper.
    Raises ValueError as `resize_centre`, and where not 0 < low <= high <= 1 and ratio >= 1.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f"low={low}, high={high}: must be 0 < low <= high <= 1, of the shorter side")
    if not ratio >= 1:
        raise ValueError(f"ratio={ratio}: must be at least 1")
    spec = f"local_crop(size={size}, low={float(low)}, high={float(high)}, ratio={float(ratio)})"
    return compose(_random(spec, size, low, high, ratio), flip(rate))


def low_resolution(size: int) -> Augment:
    """Images reduced to a shorter side of ``size`` by the means of squares of pixels; held-out images are, too.

    Raises ValueError for a ``size`` below 1, or one that sides of the images are no multiple of.
    """
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1")

    def shape(shape: ImageShape) -> ImageShape:
        height, width, channels = shape
        side = min(height, width)
        if side % size or max(height, width) % (side // size):
            raise ValueError(f"size={size}: images of {height}x{width} pixels are no multiple of it")
        return height * size // side, width * size // side, channels

    def apply(images, controls):
        return area(images, images.shape[1] // shape(images.shape[1:])[0])

    itself = Augment(f"low_resolution(size={size})", lambda seed, numbers, shape: {}, apply, shape=shape)
    return itself._replace(still=itself)


def _central(size: int) -> Augment:
    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        side, ones = min(shape[:2]), np.ones(len(numbers), np.int32)
        return _named(*(ones * value for value in ((shape[0] - side) // 2, (shape[1] - side) // 2, side, side)))

    itself = _window(f"resize_centre(size={size})", size, controls)
    return itself._replace(still=itself)


def _random(spec: str, size: int, low: float, high: float, ratio: float) -> Augment:
    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        scale, aspect, top, left = uniform(seed, numbers, "window")
        side = min(shape[:2]) * (low + (high - low) * scale)
        stretch = ratio ** (aspect - 0.5)  # of the width; a square of width / height = ratio ** (2·aspect - 1)
        height = np.clip(np.rint(side / stretch), 1, shape[0])
        width = np.clip(np.rint(side * stretch), 1, shape[1])
        return _named(top * (shape[0] - height + 1), left * (shape[1] - width + 1), height, width)

    return _window(spec, size, controls)._replace(still=_central(size))


def _named(*box: np.ndarray) -> Controls:
    return {name: values.astype(np.int32) for name, values in zip(NAMES, box, strict=True)}


def _window(spec: str, size: int, controls: Callable[[int, np.ndarray, ImageShape], Controls]) -> Augment:
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1")

    def shape(shape: ImageShape) -> ImageShape:
        height, width, channels = shape
        if min(height, width) < size:
            raise ValueError(f"size={size}: images of {height}x{width} pixels are smaller")
        taps(max(height, width), size)
        return size, size, channels

    def apply(images, controls):
        top, left, height, width = (controls[name] for name in NAMES)
        _, tall, wide, _ = images.shape
        return resample(images, whole(top, height, size, tall), whole(left, width, size, wide))

    return Augment(spec, controls, apply, NAMES, shape)
