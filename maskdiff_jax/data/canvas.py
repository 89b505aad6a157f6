"""Small images placed on a larger canvas in ways that are known: data on which control conditioning can be measured."""

import numpy as np

from maskdiff_jax.data.augment import Augment, Controls, ImageShape, mirror
from maskdiff_jax.data.philox import uniform
from maskdiff_jax.data.resample import Axis, area, eight_bits, resample, taps

_LEVELS = 256  # contrasts are multiples of 1/256: times 8 bits they are exact in float32


def canvas(
    size: int = 16,
    smallest: int = 8,
    largest: int = 12,
    rate: float = 0.5,
    factor: int = 2,
    reduced: float = 0.5,
    faintest: float = 0.5,
    grid: int = 1,
) -> Augment:
    """Square images, light on black, rendered somewhere on a black canvas of [size, size].

    What is recorded, each drawn independently of the others but for the place, which is uniform where the image fits:
    ``flip``, 1 with probability ``rate``; ``scale``, its side there in pixels, uniform among smallest, smallest +
    ``grid``, ..., largest; ``offset_top`` and ``offset_left`` of its corner, multiples of ``grid``;
    ``original_height`` and ``original_width``, with probability ``reduced`` the side divided by ``factor``, from which
    it is then scaled up (reduced by the means of squares); ``contrast``, which multiplies its pixels, uniform in
    [faintest, 1] in steps of 1/256. The first four say where things are, the others how they look. Held-out images are
    treated alike. The task is ours, not a paper's.

    Raises ValueError where not 1 <= smallest <= largest <= size, for a ``grid`` that does not lead from smallest to
    largest, for rates that are no probability or ``faintest`` outside (0, 1], and for images that are not square or no
    multiple of ``factor``.
    """
    if not 1 <= smallest <= largest <= size:
        raise ValueError(f"smallest={smallest}, largest={largest}: must be 1 <= smallest <= largest <= size={size}")
    for name, value in {"rate": rate, "reduced": reduced}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: must be a probability")
    if grid < 1 or (largest - smallest) % grid:
        raise ValueError(f"grid={grid}: must be at least 1 and divide largest - smallest = {largest - smallest}")
    if factor < 1:
        raise ValueError(f"factor={factor}: must be at least 1")
    if not 0 < faintest <= 1:
        raise ValueError(f"faintest={faintest}: must be in (0, 1]")

    def shape(shape: ImageShape) -> ImageShape:
        height, width, channels = shape
        if height != width or height % factor:
            raise ValueError(f"factor={factor}: images of {height}x{width} pixels are not square, or no multiple of it")
        taps(height, smallest)
        return size, size, channels

    def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
        u_scale, u_top, u_left, u_flip = uniform(seed, numbers, "canvas")
        u_reduced, u_contrast, _, _ = uniform(seed, numbers, "canvas look")
        scale = smallest + grid * (u_scale * ((largest - smallest) // grid + 1)).astype(np.int32)
        free = (size - scale) // grid + 1
        side = np.where(u_reduced < reduced, shape[0] // factor, shape[0]).astype(np.int32)
        low = np.ceil(faintest * _LEVELS)
        contrast = (low + np.floor(u_contrast * (_LEVELS - low + 1))) / _LEVELS
        top, left = (grid * (u * free).astype(np.int32) for u in (u_top, u_left))
        values = (top, left, scale, u_flip < rate, side, side)
        drawn = dict(zip(NAMES, (value.astype(np.int32) for value in values), strict=False))
        return drawn | {"contrast": contrast.astype(np.float32)}

    def apply(images, controls):
        xp = images.__array_namespace__()
        _, side, _, _ = eight_bits(images).shape
        images = mirror(images, controls)
        coarse = area(images, factor)
        coarse = xp.pad(coarse, ((0, 0), *((0, side - side // factor),) * 2, (0, 0)))
        length, scale = controls["original_height"], controls["scale"]
        images = xp.where((length < side)[:, None, None, None], coarse, images)
        start = np.zeros(len(images), np.int32)
        count = taps(side, smallest)
        rows, columns = (
            Axis(start, length, controls[name], scale, size, count) for name in ("offset_top", "offset_left")
        )
        ink = resample(images, rows, columns).astype("float32")
        return xp.floor(ink * controls["contrast"][:, None, None, None] + 0.5).astype("uint8")

    spec = (
        f"canvas(size={size}, smallest={smallest}, largest={largest}, rate={float(rate)}, factor={factor}, "
        f"reduced={float(reduced)}, faintest={float(faintest)}, grid={grid})"
    )
    itself = Augment(spec, controls, apply, NAMES, shape)
    return itself._replace(still=itself)


NAMES = ("offset_top", "offset_left", "scale", "flip", "original_height", "original_width", "contrast")
