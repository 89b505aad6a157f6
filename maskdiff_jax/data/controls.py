"""What is recorded of an image's making, as numbers for a network: for training, and alike for sampling.

Embedders expect numbers of about [0, 1]. `CONTROL_UNITS` is where that is seen to, once; the paper (Berrada Ifriqi et
al. 2024, arXiv 2411.03177) does not specify it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data.augment import Augment, ImageShape, for_heldout


class Frame(NamedTuple):
    """The shapes (h, w, c) of the stored images, and of those that the augmentation makes of them."""

    stored: ImageShape
    target: ImageShape


def _log_pixels(value, frame: Frame):
    """1 px is 0, 1024 px is 1, and every factor of 2 between them a tenth: 4 and 8 px differ as 256 and 512 do."""
    return value.__array_namespace__().log2(value) / 10


def _share(value, frame: Frame):
    """Width / height as width / (width + height): a square is 0.5, and 2:1 and 1:2 are as far from it."""
    return value / (1 + value)


Unit = Callable[[Any, Frame], Any]
_STORED: tuple[Unit, Unit] = (lambda value, f: value / f.stored[0], lambda value, f: value / f.stored[1])
_TARGET: tuple[Unit, Unit] = (lambda value, f: value / f.target[0], lambda value, f: value / f.target[1])

# What is recorded as float32 [b] -> the number that a network is given. Names that are not here are given as recorded:
# flip (0 or 1), contrast (a factor), and the controls of augmentations from elsewhere.
CONTROL_UNITS: dict[str, Unit] = {
    "original_height": _log_pixels,
    "original_width": _log_pixels,
    "target_height": _log_pixels,
    "target_width": _log_pixels,
    "aspect": _share,
    "crop_top": _STORED[0],
    "crop_left": _STORED[1],
    "crop_height": _STORED[0],
    "crop_width": _STORED[1],
    "top": _TARGET[0],
    "left": _TARGET[1],
    "offset_top": _TARGET[0],
    "offset_left": _TARGET[1],
    "scale": _TARGET[0],
}
DERIVED = ("original_height", "original_width", "target_height", "target_width", "aspect")


def control_names(augment: Augment) -> tuple[str, ...]:
    """What is recorded of every image, in training and of held-out ones, and can so be a condition.

    ``original_height`` and ``original_width``: the pixels of the original, before the source resized it where it does;
    ``target_height`` and ``target_width``: of the image; ``aspect``: the original's width / height; and the controls
    of the augmentation, which may give another meaning to a name of these.
    """
    shared = (name for name in augment.names if name in for_heldout(augment).names)
    return tuple(dict.fromkeys((*DERIVED, *shared)))


def recorded(augment: Augment, controls: dict[str, Any], original: Any, shape: ImageShape) -> dict[str, Any]:
    """All that `control_names` names, [b] each, of images stored as ``shape`` (h, w, c); NumPy or jax.

    ``controls`` are what ``augment`` drew for them; ``original`` int32 [b, 2] is their height and width as in
    `originals`.
    """
    height, width, _ = augment.shape(shape)
    first = original[:, 0]
    xp = first.__array_namespace__()
    targets = {"target_height": xp.full_like(first, height), "target_width": xp.full_like(first, width)}
    found = {"original_height": first, "original_width": original[:, 1]} | targets | controls
    return {"aspect": found["original_width"] / found["original_height"]} | found


def originals(shape: ImageShape, count: int) -> np.ndarray:
    """int32 [count, 2]: the height and width of originals that are stored as they are."""
    return np.tile(np.array(shape[:2], np.int32), (count, 1))


def conditions(
    augment: Augment, controls: dict[str, Any], original: Any, shape: ImageShape, names: Sequence[str]
) -> Any:
    """The controls ``names`` as float32 [b, m] in `CONTROL_UNITS`, None without names; arguments as `recorded`'s.

    Raises ValueError for a name that is not recorded, with those that are.
    """
    if not names:
        return None
    found, frame = recorded(augment, controls, original, shape), Frame(shape, augment.shape(shape))
    for name in names:
        if name not in found:
            raise ValueError(f"control {name!r} is not recorded: choose from {', '.join(control_names(augment))}")
    values = [CONTROL_UNITS.get(name, _as_recorded)(found[name].astype("float32"), frame) for name in names]
    return original.__array_namespace__().stack(values, axis=1)


def controls_of(
    augment: Augment,
    seed: int,
    numbers: np.ndarray,
    names: Sequence[str],
    shape: ImageShape,
    original: np.ndarray | None = None,
) -> np.ndarray | None:
    """The condition float32 [n, m] of the images that would have the running ``numbers`` [n]: no image is needed.

    So a sample's controls come from the distribution of the data's: in training under ``augment`` itself, as measured
    under `for_heldout`. ``shape`` is that of the stored images; ``original`` int32 [n, 2] the true sizes of some, where
    the source resized them, by default ``shape``. None without names. Raises ValueError as `conditions`.
    """
    original = originals(shape, len(numbers)) if original is None else original
    return conditions(augment, augment.controls(seed, numbers, shape), original, shape, names)


def _as_recorded(value, frame: Frame):
    return value
