"""Whether far-apart parts of images agree: a reader of the rules of `data.consistency` that sees the images alone.

Two values that the rule calls equal count as different where they are further apart than rounding to 8 bits and
Gaussian noise of a stated standard deviation explain: one grey level, 2/255, and z·√2·sd for single pixels. z is such
that noise makes one image in a million a violation (a union bound over the comparisons in it). Without noise real
images obey exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.pixels import blocks

FALSE_ALARM = 1e-6  # the chance that noise of the stated standard deviation makes a violation of an image
LEVEL = 2 / 255  # each of two equal values is off by half a grey level at most
LIGHT = 0.0  # a pixel is lit where its brightest channel is above it: half way between the background's and a shape's
LOUDEST = 0.15  # standard deviation up to which noise takes no pixel across LIGHT
ONE_COLOUR = 0.75  # share of the pixels of a shape that must have its colour
_BLOCK = 2048


class Verdict(NamedTuple):
    """Of each image: whether it ``violates`` the rule, and whether it is ``unreadable``; both bool [n], never both."""

    violates: np.ndarray
    unreadable: np.ndarray


Check = Callable[[np.ndarray], Verdict]


def violations(rule: str, noise: float = 0.05) -> Check:
    """``check(images) -> Verdict`` by a rule of `RULES`, of float images [n, h, w, c] in [-1, 1].

    ``noise``: the standard deviation of the Gaussian noise for each element that is forgiven; the default is 6 grey
    levels of 255. An image with a NaN or infinity is unreadable.
    Raises ValueError for an unknown rule or ``noise`` outside [0, `LOUDEST`]; ``check`` for no image, integer images,
    another rank or an odd width.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: choose from {', '.join(RULES)}")
    if not 0 <= noise <= LOUDEST:
        raise ValueError(f"noise={noise}: must be in [0, {LOUDEST}]")

    def check(images: np.ndarray) -> Verdict:
        if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating) or images.shape[2] % 2 or not images.size:
            got = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"rules are read from at least 1 float image [n, h, w, c] of even width, got {got}")
        parts = [_check(block, rule, noise) for block in blocks(images, _BLOCK)]
        return Verdict(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return check


def violation_rates(verdict: Verdict) -> dict[str, float | None]:
    """``violation_rate``: share of the readable images that violate the rule, None where none is readable;
    ``unreadable_rate``: share of all images.
    """
    n, unreadable = len(verdict.unreadable), int(verdict.unreadable.sum())
    rate = None if unreadable == n else float(verdict.violates.sum() / (n - unreadable))
    return {"violation_rate": rate, "unreadable_rate": unreadable / n}


def tolerance(noise: float, comparisons: int, spread: float | np.ndarray = 2**0.5) -> float | np.ndarray:
    """How far apart two equal values may be: `LEVEL` + z·spread·noise.

    ``spread``: the standard deviation of their difference, in that of one element. ``comparisons``: of an image, which
    together raise a false alarm with probability `FALSE_ALARM` at most.
    """
    from scipy.special import ndtri  # takes a while to import

    return LEVEL - ndtri(FALSE_ALARM / (2 * comparisons)) * spread * noise


def mirror(left: np.ndarray, right: np.ndarray, noise: float) -> Verdict:
    """The largest difference between left and mirrored right half is beyond `tolerance`.

    Unreadable: no pixel in either half is lit.
    """
    unreadable = np.asarray(~(_lit(left) | _lit(right)).any(axis=(1, 2)))
    apart = np.abs(left - right[:, :, ::-1]).max(axis=(1, 2, 3))
    return Verdict(~unreadable & (apart > tolerance(noise, left[0].size)), unreadable)


def colours(left: np.ndarray, right: np.ndarray, noise: float) -> Verdict:
    """The colours of the shapes in the two halves differ in some channel by more than `tolerance`.

    The shape of a half is its lit pixels, its colour their median, which soft rims hardly move; the spread of a median
    of k is taken as √(π/2k), that of many. Unreadable: in either half fewer than (h/8)² pixels are lit, or those that
    are do not fit into a square of 5/16·h + 1, or a smaller share than `ONE_COLOUR` of them has the colour. Halves of
    two images at random differ in 99.4 % of pairs of 16 pixels and 99.8 % of 32, the others have nearly one colour.
    """
    (a, k, fine_a), (b, m, fine_b) = (_shape(half, noise) for half in (left, right))
    unreadable = ~(fine_a & fine_b)
    spread = np.sqrt(np.pi / 2 * (1 / k + 1 / m))
    apart = np.abs(a - b).max(axis=1)
    return Verdict(~unreadable & (apart > tolerance(noise, a.shape[1], spread)), unreadable)


RULES = {"mirror": mirror, "colours": colours}


def _check(images: np.ndarray, rule: str, noise: float) -> Verdict:
    finite = np.isfinite(images).all(axis=(1, 2, 3), keepdims=True)
    left, right = np.split(np.where(finite, images, -1.0), 2, axis=2)  # black is unreadable
    return RULES[rule](left, right, noise)


def _lit(half: np.ndarray) -> np.ndarray:
    return half.max(axis=3) > LIGHT


def _shape(half: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour [n, c] and number of lit pixels [n] of each half [n, h, w, c], and whether they are one shape [n]."""
    n, h, w, c = half.shape
    lit = _lit(half)
    count = lit.sum(axis=(1, 2))
    whole = np.maximum(count, 1)
    ordered = np.sort(np.where(lit[..., None], half, np.inf).reshape(n, h * w, c), axis=1)
    middle = (np.take_along_axis(ordered, at[:, None, None], axis=1) for at in ((whole - 1) // 2, whole // 2))
    colour = np.where(count[:, None] > 0, sum(value[:, 0] for value in middle) / 2, -1.0)
    alike = np.abs(half - colour[:, None, None, :]).max(axis=3) <= tolerance(noise, h * w * c)
    one = (lit & alike).sum(axis=(1, 2)) >= ONE_COLOUR * whole
    largest = np.maximum(_extent(lit, axis=1), _extent(lit, axis=2))
    return colour, whole, one & (count >= (h / 8) ** 2) & (largest <= 5 * h / 16 + 1)


def _extent(lit: np.ndarray, axis: int) -> np.ndarray:
    """From the first to the last lit row (axis 1) or column (axis 2) of each half [n, h, w]; all of it without one."""
    hit: np.ndarray = np.any(lit, axis=3 - axis)
    return lit.shape[axis] - hit.argmax(axis=1) - hit[:, ::-1].argmax(axis=1)
