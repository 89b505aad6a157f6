"""Augmentations: what is done to a sample is drawn from its running number, recorded, and applied by a pure function.

A sample's running number is ``epoch·n + index``, so its draws depend on nothing else: not on the batch, the host or the
worker that loads it. The draws ("controls") are made on the host and travel with the batch; applying them to the
originals, with NumPy on the host or with jax inside a jitted step, gives the same pixels.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data.philox import uniform

Controls = dict[str, np.ndarray]
ImageShape = tuple[int, int, int]  # h, w, c


class Augment(NamedTuple):
    """``controls(seed, numbers [b], shape) -> {name: int32 or float32 [b]}``, as they will be applied to images of
    ``shape`` (h, w, c), with 0 <= seed < 2**64; ``names`` are theirs, in order.
    ``apply(images [b, h, w, c], controls) -> images`` of the same type and library (NumPy or jax);
    ``shape((h, w, c)) -> (h, w, c)`` of those, which raises ValueError for images that it cannot be applied to.
    ``spec`` tells augmentations apart where a restart must use the same one. ``still``: what is done to held-out
    images instead, so that they have the shape and the controls of training images; None for nothing (`for_heldout`).
    """

    spec: str
    controls: Callable[[int, np.ndarray, ImageShape], Controls]
    apply: Callable[[Any, Any], Any]
    names: tuple[str, ...] = ()
    shape: Callable[[ImageShape], ImageShape] = lambda shape: shape
    still: "Augment | None" = None


def for_heldout(augment: Augment) -> Augment:
    """What held-out images, and all others that are only measured, get where training images get ``augment``.

    What it returns is its own held-out augmentation.
    """
    still = augment.still
    return none() if still is None else still._replace(still=still)


def none() -> Augment:
    """The images as they are."""
    return Augment("none", lambda seed, numbers, shape: {}, lambda images, controls: images)


def flip(rate: float = 0.5) -> Augment:
    """Mirror left and right with probability ``rate``. Control ``flip``: 1 where mirrored; 0 on held-out images."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must be a probability")
    return _flip(rate)._replace(still=_flip(0))


def _flip(rate: float) -> Augment:
    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        return {"flip": (uniform(seed, numbers, "flip")[0] < rate).astype(np.int32)}

    return Augment(f"flip(rate={float(rate)})", controls, mirror, ("flip",))


def mirror(images, controls):
    """Images [b, h, w, c], left and right exchanged where the control ``flip`` [b] is 1."""
    xp = images.__array_namespace__()
    return xp.where(controls["flip"][:, None, None, None] == 1, images[:, :, ::-1], images)


def crop(pad: int = 4, mode: str = "constant") -> Augment:
    """Pad all four sides by ``pad`` pixels and cut out a window of the old size at a uniformly random place.

    ``mode`` "constant" pads with 0, "reflect" mirrors. Controls ``top`` and ``left``: the window's corner in the padded
    image, 0..2·pad; ``pad`` leaves the image where it was, as held-out images are left.
    """
    if pad < 1:
        raise ValueError(f"pad={pad}: must be at least 1")
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode={mode!r}: choose from constant, reflect")
    names = ("top", "left")

    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        top, left = (uniform(seed, numbers, "crop")[:2] * (2 * pad + 1)).astype(np.int32)
        return {"top": top, "left": left}

    def centred(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        return {name: np.full(len(numbers), pad, np.int32) for name in names}

    def apply(images, controls):
        xp = images.__array_namespace__()
        _, height, width, _ = images.shape
        padded = xp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        rows = controls["top"][:, None] + np.arange(height, dtype=np.int32)[None, :]
        columns = controls["left"][:, None] + np.arange(width, dtype=np.int32)[None, :]
        window = xp.take_along_axis(padded, rows[:, :, None, None], axis=1)
        return xp.take_along_axis(window, columns[:, None, :, None], axis=2)

    options = f"(pad={pad}, mode={mode})"
    return Augment("crop" + options, controls, apply, names, still=Augment("centred" + options, centred, apply, names))


def standard(rate: float = 0.5, pad: int = 0, mode: str = "constant") -> Augment:
    """`flip` with probability ``rate``, then `crop` where ``pad`` is not 0."""
    return compose(flip(rate), crop(pad, mode)) if pad else flip(rate)


def compose(*augments: Augment) -> Augment:
    """All of them, from left to right. Each draws what it would draw alone; no two may share a control's name.

    At most one may change the size of the images: what is recorded in pixels is in pixels of the stored images.
    """
    names = tuple(name for augment in augments for name in augment.names)
    if len(set(names)) < len(names):
        raise ValueError(f"augmentations share a control: {', '.join(names)}")
    return _compose(augments)._replace(still=_compose([for_heldout(augment) for augment in augments]))


def _compose(augments: Sequence[Augment]) -> Augment:
    spec = " + ".join(augment.spec for augment in augments)
    names = tuple(name for augment in augments for name in augment.names)

    def shapes(shape: ImageShape) -> list[ImageShape]:
        found = list(accumulate(augments, lambda s, augment: augment.shape(s), initial=shape))
        if sum(before != after for before, after in pairwise(found)) > 1:
            raise ValueError(f"more than one augmentation of {spec!r} changes the size of the images")
        return found

    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        drawn = (a.controls(seed, numbers, s) for a, s in zip(augments, shapes(shape), strict=False))
        return {name: values for part in drawn for name, values in part.items()}

    def apply(images, controls):
        for augment in augments:
            images = augment.apply(images, controls)
        return images

    return Augment(spec, controls, apply, names, lambda shape: shapes(shape)[-1])
