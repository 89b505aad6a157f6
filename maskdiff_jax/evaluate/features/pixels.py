"""Pixels as features: for images small enough that they tell, and as a check on learned features."""

from collections.abc import Callable
from math import prod

import numpy as np

from maskdiff_jax.data.pixels import to_float
from maskdiff_jax.evaluate.features.base import Arrays, Features, Given, Make, check_images

BATCH = 1024


def pixels() -> Make:
    """pool: the pixels in [-1, 1], flattened; dims = h·w·c. The distance between two of them is that of the images."""

    def make(given: Given) -> Features:
        def extract(images: np.ndarray, progress: Callable[[int], None] | None = None) -> Arrays:
            check_images(images, given.shape)
            pool = to_float(images).reshape(len(images), -1)
            if progress:
                progress(len(images))
            return {"pool": pool}

        return Features("pixels", prod(given.shape), extract, BATCH, {"range": [-1, 1]}, "pixels")

    return make
