"""Pixels as features, for images small enough that the pixels themselves tell: the Fréchet distance in pixel space.

The scale matters, since the distance is quadratic in it: pixels are **floats in [-1, 1]**, flattened, never uint8. On
scikit-learn's 8x8 digits (d = 64, total variance 18.8) random halves of the real images are then 0.29 ± 0.025 apart and
1,000 images drawn with replacement are 0.14 from all 1,797; with pixels in [0, 1] the same halves would read 0.07, in
[0, 16] 18.
"""

from collections.abc import Iterator

import numpy as np

from maskdiff_jax.evaluate.frechet import Statistics, frechet, statistics


def features(images: np.ndarray) -> np.ndarray:
    """Float images [n, h, w, c] in [-1, 1] -> [n, h·w·c]. Not clipped: a sample outside the range counts as such.

    Raises ValueError for integer images or another rank.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be [n, h, w, c], got shape {list(images.shape)}")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"pixel features take float images in [-1, 1], got {images.dtype}")
    return np.asarray(images).reshape(len(images), -1)


def pixel_statistics(images: np.ndarray, block: int = 4096) -> Statistics:
    """Mean and covariance of the pixels of images [n, h, w, c], ``block`` images in float64 at a time."""
    return statistics(blocks(features(images), block))


def pixel_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance between two sets of float images [n, h, w, c] in [-1, 1], in pixel space."""
    return frechet(pixel_statistics(a), pixel_statistics(b))


def pixel_frechet_reference(images: np.ndarray, repeats: int = 4, seed: int = 0) -> float:
    """What `pixel_frechet` reads between two random halves of one set of images, the mean over ``repeats`` splits.

    It is the scale by which to read a sample's distance: the bias of a finite set, which falls as 1/n.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(images)) for _ in range(repeats)]
    half = len(images) // 2
    return float(np.mean([pixel_frechet(images[order[:half]], images[order[half:]]) for order in orders]))


def blocks(array: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Consecutive slices of at most ``block`` entries, views of ``array``."""
    return (array[i : i + block] for i in range(0, len(array), block))
