"""The three-sample test of data copying: are samples nearer to the training images than held-out images are?

Meehan, Chaudhuri & Dasgupta 2020 (arXiv 2004.05675).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.metrics.distances import same_width


class Cell(NamedTuple):
    """One cell: its z-score (far below 0: copies, far above: too far off), and how many of each set lie in it."""

    score: float
    fake: int
    heldout: int


def z_score(fake: np.ndarray, heldout: np.ndarray) -> float:
    """The Mann-Whitney statistic of distances [m] and [n] as a z-score: 0 where neither tends to be larger.

    U counts the pairs in which the fake one is larger, ties as half; z = (U - mn/2) / √(mn(m + n + 1)/12). The variance
    is that without ties, as in the authors' code; their continuity correction of half a pair is left out.
    """
    m, n = len(fake), len(heldout)
    from scipy.stats import rankdata  # takes a while to import

    u = rankdata(np.concatenate([fake, heldout]))[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def cell_scores(
    fake: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray], least: int = 20
) -> list[Cell]:
    """The cells with at least ``least`` samples and a held-out image.

    Each set is (distances to the nearest training image [n], cells [n]).
    """
    cells = []
    for cell in np.unique(heldout[1]):
        near, other = fake[0][fake[1] == cell], heldout[0][heldout[1] == cell]
        if len(near) >= max(1, least):
            cells.append(Cell(z_score(near, other), len(near), len(other)))
    return cells


def copying_score(
    fake: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray], least: int = 20
) -> float:
    """C_T: the mean of the cells' z-scores, weighted by their held-out images. Far below 0 means copies.

    Cells with few samples are left out (the paper's threshold τ = ``least``/m), and the weights are renormalised.
    Each set is (distances to the nearest training image [n], cells [n]); the nearest is that of the whole training set,
    where the authors' code looks into the cell alone. A z-score grows as √n: compare sets of one size.
    Raises ValueError where no cell is left.
    """
    cells = cell_scores(fake, heldout, least)
    if not cells:
        raise ValueError(f"ct needs a cell with at least {least} samples and a held-out image, there is none")
    return float(np.average([cell.score for cell in cells], weights=[cell.heldout for cell in cells]))


def cells_of(train: np.ndarray, sets: Sequence[np.ndarray], count: int = 3, seed: int = 0) -> list[np.ndarray]:
    """The cell [n] of each feature of ``sets``: ``count`` cells by k-means on the training features [m, d].

    How many is not specified by the paper. Raises ValueError for fewer training features than cells or another d.
    """
    from sklearn.cluster import KMeans  # slow to import, and needed here only

    if not 1 <= count <= len(train):
        raise ValueError(f"ct needs 1 .. {len(train)} cells for as many training features, got {count}")
    for some in sets:
        same_width(some, train)
    means = KMeans(count, n_init=1, random_state=seed).fit(train)
    return [means.predict(some.astype(train.dtype, copy=False)) for some in sets]
