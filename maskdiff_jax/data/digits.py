"""The 1,797 real 8×8 handwritten digits that scikit-learn carries with it: no network and no file needed."""

import numpy as np

from maskdiff_jax.data.source import ArraySource, DataError, Dataset


def digits(tint: bool = False, tint_seed: int = 0, heldout: int = 297, split_seed: int = 0) -> Dataset:
    """Ten classes of uint8 images [8, 8, 1], ink levels 0..16 scaled to 0..255 (Alpaydin & Kaynak 1998, UCI).

    ``tint`` gives every image an RGB colour of its own instead, [8, 8, 3]: uniform, then scaled so that the brightest
    channel is 1, which keeps all ink visible. The colours depend on ``tint_seed`` alone. ``heldout`` images are set
    aside, in proportion from every class; which ones depends on ``split_seed`` alone.
    Raises DataError where ``heldout`` leaves nothing to train on or to hold out.
    """
    from sklearn.datasets import load_digits  # half a second, paid by those who use it

    bunch = load_digits()
    ink, label = bunch.images, bunch.target.astype(np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    if not 0 < heldout < len(ink):
        raise DataError(f"heldout={heldout}: must be between 1 and {len(ink) - 1}")
    image = np.rint(ink * (255 / 16))[..., None]
    if tint:
        colour = _uniform(tint_seed, (len(ink), 3))
        image = np.rint(image * (colour / colour.max(axis=1, keepdims=True))[:, None, None])
    image = image.astype(np.uint8)
    held = _stratified(label, heldout, split_seed)
    return Dataset(
        name="digits_tinted" if tint else "digits",
        shape=image.shape[1:],
        classes=10,
        train=ArraySource(image[~held], label[~held]),
        heldout=ArraySource(image[held], label[held]),
        class_names=tuple("0123456789"),
    )


def _stratified(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A mask [n] with ``count`` hits: every (n / count)-th image, once sorted by class and at random within it."""
    order = np.lexsort((_uniform(seed, label.shape), label))
    mask = np.zeros(len(label), bool)
    mask[order[np.arange(count) * len(label) // count]] = True
    return mask


def _uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).random(shape)
