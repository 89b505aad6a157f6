"""What was copied from the training images: d1/d2, authenticity, and the closest pairs to look at."""

from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.metrics.neighbours import Nearest


class Pairs(NamedTuple):
    """k samples and their nearest training images, closest first: indices ``samples`` and ``train`` [k], distances."""

    samples: np.ndarray
    train: np.ndarray
    distances: np.ndarray


def copied_share(found: Nearest, ratio: float = 1 / 3) -> float:
    """The share of samples with d1/d2 < ``ratio``: much nearer to one training image than to any other.

    Gu et al. 2023, arXiv 2310.02664; d1 and d2 are the distances to the nearest two. A sample that equals a training
    image is a copy also where the training set holds that one twice (not specified by the paper).
    ``found`` are the 2 nearest training images, or more, of each sample. Raises ValueError where they are fewer.
    """
    if found.squares.shape[1] < 2:
        raise ValueError(
            f"copied_share needs the 2 nearest training images of each sample, got {found.squares.shape[1]}"
        )
    first, second = found.squares[:, 0], found.squares[:, 1]
    return float(np.mean((first < ratio**2 * second) | (first == 0)))


def authentic_percent(found: Nearest, spacing: Nearest) -> float:
    """AuthPct: the percentage of samples that are no noisy copies (Alaa et al. 2022, arXiv 2102.08921, §4.3).

    A sample is authentic where its nearest training image has another training image nearer than the sample. About
    half of fresh samples are, so read it beside that of held-out images. ``found`` are the nearest training images of
    each sample, ``spacing`` the nearest others of each training image.
    """
    return float(100 * np.mean(spacing.squares[found.indices[:, 0], 0] < found.squares[:, 0]))


def closest_pairs(found: Nearest, k: int) -> Pairs:
    """The ``k`` samples that are nearest to a training image, with that image; all, where there are fewer.

    ``found`` are the nearest training images of each sample (`neighbours.nearest`). Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"closest pairs: k must be at least 1, got {k}")
    samples = np.argsort(found.squares[:, 0], kind="stable")[:k]
    return Pairs(samples, found.indices[samples, 0], found.distances[samples, 0])
