"""The 1,797 real 8×8 handwritten digits that scikit-learn carries with it: no network and no file needed."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from maskdiff_jax.data.source import ArraySource, DataError, Dataset


def digits(
    tint: bool = False,
    tint_seed: int = 0,
    heldout: int = 297,
    split_seed: int = 0,
    classes: Sequence[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Ten classes of uint8 images [8, 8, 1], ink levels 0..16 scaled to 0..255 (Alpaydin & Kaynak 1998, UCI).

    ``tint`` gives every image an RGB colour of its own instead, [8, 8, 3]: uniform, then scaled so that the brightest
    channel is 1, which keeps all ink visible. The colours depend on ``tint_seed`` alone. ``heldout`` images are set
    aside, in proportion from every class; which ones depends on ``split_seed`` alone. ``classes`` keeps these digits
    alone, labelled 0, 1, … in the order given. ``limit`` keeps that many training images, in proportion from every
    class; a smaller limit keeps a part of what a larger one keeps only by chance.
    Raises DataError where ``heldout`` leaves nothing to train on or to hold out, and for classes or a limit that the
    data do not have.
    """
    table = np.loadtxt(_file(), delimiter=",", dtype=np.int32)
    ink, label = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    kept = tuple(range(10)) if classes is None else tuple(classes)
    if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(10)):
        raise DataError(f"classes={kept}: one or more different digits, each from 0 to 9")
    ink, label = ink[np.isin(label, kept)], label[np.isin(label, kept)]
    if not 0 < heldout < len(ink):
        raise DataError(f"heldout={heldout}: must be between 1 and {len(ink) - 1}")
    image = np.rint(ink * (255 / 16))[..., None]
    if tint:
        colour = _uniform(tint_seed, (len(ink), 3))
        image = np.rint(image * (colour / colour.max(axis=1, keepdims=True))[:, None, None])
    image = image.astype(np.uint8)
    label = np.array([kept.index(digit) for digit in label], np.int32)
    held = _stratified(label, heldout, split_seed)
    train, trained = image[~held], label[~held]
    if limit is not None:
        if not 0 < limit <= len(train):
            raise DataError(f"limit={limit}: must be between 1 and {len(train)}, the training images that there are")
        few = _stratified(trained, limit, split_seed)
        train, trained = train[few], trained[few]
    return Dataset(
        name="digits_tinted" if tint else "digits",
        shape=image.shape[1:],
        classes=len(kept),
        train=ArraySource(train, trained),
        heldout=ArraySource(image[held], label[held]),
        class_names=tuple(map(str, kept)),
    )


def _file() -> Path:
    """Scikit-learn's file of the digits; scikit-learn itself, which takes a second to import, is not needed."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _stratified(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A mask [n] with ``count`` hits: every (n / count)-th image, once sorted by class and at random within it."""
    order = np.lexsort((_uniform(seed, label.shape), label))
    mask = np.zeros(len(label), bool)
    mask[order[np.arange(count) * len(label) // count]] = True
    return mask


def _uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).random(shape)
