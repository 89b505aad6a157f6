"""Which files of the user's are held out: by a hash of their names, so that more files do not reshuffle the others."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from maskdiff_jax.data.source import DataError


def check_heldout(heldout: float) -> None:
    """Raise DataError unless ``heldout`` is a fraction in (0, 1) or a whole number of images from 1 on."""
    if not (0 < heldout < 1 or (heldout >= 1 and heldout == int(heldout))):
        raise DataError(f"heldout={heldout}: must be a fraction in (0, 1) or a whole number of images")


def by_hash(use: str, name: str) -> float:
    """A uniform number in [0, 1) that depends on what it is for and on the name alone."""
    return int.from_bytes(sha256(f"{use}:{name}".encode()).digest()[:6]) / 2**48


def held_out(names: Sequence[str], label: np.ndarray, heldout: float) -> np.ndarray:
    """A mask [n] of those held out: those `by_hash` below a fraction, or the lowest ones, but of no class the highest.

    ``label``: int [n], all alike where there are no classes. At least one is held out, and every class keeps an image
    to train on. Raises DataError where that leaves too few.
    """
    places = np.array([by_hash("split", name) for name in names])
    order = np.argsort(places)
    last = dict(zip(label[order].tolist(), order.tolist(), strict=True))
    free = order[~np.isin(order, list(last.values()))]
    count = int(heldout) if heldout >= 1 else max(1, int(np.searchsorted(places[free], heldout)))
    if count > len(free):
        spare = f"{len(places)} images in {len(last)} classes can spare {len(free)}"
        raise DataError(f"heldout={heldout}: {spare}, as of each class one must be left to train on")
    mask = np.zeros(len(places), bool)
    mask[free[:count]] = True
    return mask
