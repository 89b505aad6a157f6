"""Images whose far-apart parts obey a rule that can be checked exactly: data on which global consistency is measured.

Everything else about an image is drawn independently, so that the rule is all that one half says of the other. Light
colours on black, in 8 bits without smoothing; `evaluate.consistency` reads the rules from images. The data are ours,
not a paper's.
"""

from collections.abc import Callable, Sequence

import numpy as np

from maskdiff_jax.data.philox import uniform
from maskdiff_jax.data.source import ArraySource, DataError, Dataset

BLOBS = 3  # of a half of a mirrored image; later ones cover earlier ones
HELDOUT = 2**32  # number of the first held-out image
_CHUNK = 4096  # images drawn at a time
_RIM = 1 + 1e-9  # a pixel on the rim is inside, however its division rounds
_FORMS: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (  # norms: a shape is where they are at most 1
    np.maximum,  # a square
    np.hypot,  # a disc
    np.add,  # a square on its corner
)


def consistency(
    rule: str = "colours", size: int = 16, images: int = 20_000, heldout: int = 2_000, seed: int = 0
) -> Dataset:
    """Unlabelled uint8 images [size, size, 3] that all obey ``rule``.

    "mirror": the right half is the mirror image of the left one, which holds `BLOBS` coloured rectangles or ellipses of
    random place and size. "colours": a shape in the left half and one in the right have the same colour. Each is a
    square, a disc or a square on its corner, 3/16 to 5/16 of the image wide, at a random place at least 1/8 of the
    image away from the middle: no window narrower than a quarter of the image sees both.

    A colour is uniform, then scaled so that its brightest channel is 255. Image i is a pure function of (rule, size,
    seed, i): training images are numbered from 0, held-out ones from `HELDOUT`, so neither set depends on the size of
    the other. Mirroring left and right (augmentation `flip`) keeps both rules; a crop does not.
    Raises DataError for an unknown rule, a size that is no multiple of 16, an empty set, or a seed outside [0, 2**64).
    """
    if rule not in RULES:
        raise DataError(f"rule={rule!r}: choose from {', '.join(RULES)}")
    if size < 16 or size % 16:
        raise DataError(f"size={size}: must be a multiple of 16")
    if min(images, heldout) < 1:
        raise DataError(f"images={images}, heldout={heldout}: each set needs at least 1 image")
    if not 0 <= seed < 2**64:
        raise DataError(f"seed={seed}: must be in [0, 2**64)")

    def drawn(first: int, count: int) -> ArraySource:
        numbers = first + np.arange(count, dtype=np.uint64)
        parts = [RULES[rule](numbers[i : i + _CHUNK], size, seed) for i in range(0, count, _CHUNK)]
        return ArraySource(np.concatenate(parts))

    return Dataset(
        name=f"consistency_{rule}",
        shape=(size, size, 3),
        classes=0,
        train=drawn(0, images),
        heldout=drawn(HELDOUT, heldout),
        rule=rule,
    )


def mirror(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Images ``numbers`` [n] of the rule "mirror", uint8 [n, size, size, 3]."""
    half = np.zeros((len(numbers), size, size // 2, 3), np.uint8)
    for blob in range(BLOBS):
        u_row, u_column, u_height, u_width = uniform(seed, numbers, f"mirror {blob} place")
        *u_colour, u_form = uniform(seed, numbers, f"mirror {blob} look")
        centre = np.floor(u_row * size), np.floor(u_column * (size // 2))  # a pixel, so that no blob is empty
        radii = (size * (1 / 16 + u / 8) for u in (u_height, u_width))
        form = np.floor(u_form * 2).astype(int)  # axis-parallel: a rectangle or an ellipse
        _paint(half, centre, tuple(radii), form, _colour(u_colour))
    return np.concatenate([half, half[:, :, ::-1]], axis=2)


def colours(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Images ``numbers`` [n] of the rule "colours", uint8 [n, size, size, 3]."""
    image = np.zeros((len(numbers), size, size, 3), np.uint8)
    room = size // 2 - size // 8  # columns of each half, from the rim of the image on
    colour = _colour([*uniform(seed, numbers, "colours look")[:3]])
    for side, name in ((-1, "left"), (1, "right")):
        u_width, u_row, u_column, u_form = uniform(seed, numbers, f"colours {name}")
        least = 3 * size // 16
        width = least + np.floor(u_width * (size // 8 + 1))
        row, column = np.floor(u_row * (size - width + 1)), np.floor(u_column * (room - width + 1))
        column = column if side < 0 else size - width - column
        centre = tuple(corner + (width - 1) / 2 for corner in (row, column))
        form = np.floor(u_form * len(_FORMS)).astype(int)
        _paint(image, centre, (width / 2, width / 2), form, colour)
    return image


RULES = {"mirror": mirror, "colours": colours}


def _colour(u: Sequence[np.ndarray]) -> np.ndarray:
    """Three uniforms [3, n] -> uint8 [n, 3], the brightest channel 255."""
    share = 1 - np.stack(u, axis=1)  # above 0
    return np.rint(255 * share / share.max(axis=1, keepdims=True)).astype(np.uint8)


def _paint(
    images: np.ndarray,
    centre: tuple[np.ndarray, ...],
    radii: tuple[np.ndarray, ...],
    form: np.ndarray,
    colour: np.ndarray,
) -> None:
    """Paint one shape into each of images [n, h, w, 3], in place: ``centre`` and ``radii`` are 2 of [n], form [n]."""
    _, h, w, _ = images.shape
    down, across = (
        np.abs(np.arange(length) - at[:, None]) / radius[:, None]
        for length, at, radius in zip((h, w), centre, radii, strict=True)
    )
    inside = np.zeros(images.shape[:3], bool)
    for kind, norm in enumerate(_FORMS):
        chosen = form == kind
        inside[chosen] = norm(down[chosen][:, :, None], across[chosen][:, None, :]) <= _RIM
    np.copyto(images, colour[:, None, None, :], where=inside[..., None])
