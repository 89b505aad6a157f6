"""Augmentations: what is done to a sample is drawn from its running number, recorded, and applied by a pure function.

A sample's running number is ``epoch·n + index``, so its draws depend on nothing else: not on the batch, the host or the
worker that loads it. The draws ("controls") are made on the host and travel with the batch; applying them to the
originals, with NumPy on the host or with jax inside a jitted step, gives the same pixels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data.philox import uniform

Controls = dict[str, np.ndarray]


class Augment(NamedTuple):
    """``controls(seed, numbers [b]) -> {name: int32 [b]}`` as they will be applied, with 0 <= seed < 2**64;
    ``apply(images [b, h, w, c], controls) -> images`` of the same shape, type and library (NumPy or jax).
    ``spec`` tells augmentations apart where a restart must use the same one.
    """

    spec: str
    controls: Callable[[int, np.ndarray], Controls]
    apply: Callable[[Any, Any], Any]


def none() -> Augment:
    """The images as they are."""
    return Augment("none", lambda seed, numbers: {}, lambda images, controls: images)


def flip(rate: float = 0.5) -> Augment:
    """Mirror left and right with probability ``rate``. Control ``flip``: 1 where mirrored."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must be a probability")

    def controls(seed: int, numbers: np.ndarray) -> Controls:
        return {"flip": (uniform(seed, numbers, "flip")[0] < rate).astype(np.int32)}

    def apply(images, controls):
        xp = images.__array_namespace__()
        return xp.where(controls["flip"][:, None, None, None] == 1, images[:, :, ::-1], images)

    return Augment(f"flip(rate={float(rate)})", controls, apply)


def crop(pad: int = 4, mode: str = "constant") -> Augment:
    """Pad all four sides by ``pad`` pixels and cut out a window of the old size at a uniformly random place.

    ``mode`` "constant" pads with 0, "reflect" mirrors. Controls ``top`` and ``left``: the window's corner in the padded
    image, 0..2·pad; ``pad`` leaves the image where it was.
    """
    if pad < 1:
        raise ValueError(f"pad={pad}: must be at least 1")
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode={mode!r}: choose from constant, reflect")

    def controls(seed: int, numbers: np.ndarray) -> Controls:
        top, left = (uniform(seed, numbers, "crop")[:2] * (2 * pad + 1)).astype(np.int32)
        return {"top": top, "left": left}

    def apply(images, controls):
        xp = images.__array_namespace__()
        _, height, width, _ = images.shape
        padded = xp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        rows = controls["top"][:, None] + np.arange(height, dtype=np.int32)[None, :]
        columns = controls["left"][:, None] + np.arange(width, dtype=np.int32)[None, :]
        window = xp.take_along_axis(padded, rows[:, :, None, None], axis=1)
        return xp.take_along_axis(window, columns[:, None, :, None], axis=2)

    return Augment(f"crop(pad={pad}, mode={mode})", controls, apply)


def standard(rate: float = 0.5, pad: int = 0, mode: str = "constant") -> Augment:
    """`flip` with probability ``rate``, then `crop` where ``pad`` is not 0."""
    return compose(flip(rate), crop(pad, mode)) if pad else flip(rate)


def compose(*augments: Augment) -> Augment:
    """All of them, from left to right. Each draws what it would draw alone; no two may share a control's name."""
    names = [name for augment in augments for name in augment.controls(0, np.zeros(1, np.int64))]
    if len(set(names)) < len(names):
        raise ValueError(f"augmentations share a control: {', '.join(names)}")

    def controls(seed: int, numbers: np.ndarray) -> Controls:
        return {name: value for augment in augments for name, value in augment.controls(seed, numbers).items()}

    def apply(images, controls):
        for augment in augments:
            images = augment.apply(images, controls)
        return images

    return Augment(" + ".join(augment.spec for augment in augments), controls, apply)
