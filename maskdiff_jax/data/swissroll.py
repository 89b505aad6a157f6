"""Points on a Swiss roll in the plane, as images of two pixels: with a patch of 1, each coordinate is one token.

MaskDM (Lei et al. 2023, arXiv 2306.11363) argues on a 2-D Swiss roll that what shares the marginals p(x) and p(y) with
the roll, its "primer", is a good start for learning it. One token for each coordinate, the formula, the noise and the
scale are not specified by the paper; here the points are those of scikit-learn's `make_swiss_roll` without its third
axis (Marsland 2014).
"""

import numpy as np

from maskdiff_jax.data.source import ArraySource, DataError, Dataset

SIDE = 320  # of a panel of the picture, in its pixels
GAP = 8  # between and around the panels
VIEW = 1.05  # a panel shows [-VIEW, VIEW]²: what leaves the range of the data is seen to do so
BLUR = 1.5  # standard deviation of the kernel of the density, in pixels of the picture
DEPTH = 30.0  # densities down to about 1/DEPTH of the highest can be told from none
FRESH_DISTANCE = 0.0087  # of two fresh sets of 10,000 `points`; see there
COLOURS = ((11, 13, 30), (38, 36, 92), (112, 44, 124), (206, 74, 98), (250, 156, 84), (255, 243, 205))
_PAPER, _INK = (86, 102, 130), (255, 255, 255)


def swissroll(train: int = 50_000, heldout: int = 10_000, noise: float = 0.5, seed: int = 0) -> Dataset:
    """Unlabelled float32 "images" [1, 2, 1]: (x, y) of `points`, on a token grid of 1×2 with patch 1.

    The sets depend on ``seed`` and are none of those that `points` gives for any seed, so a fresh set to compare with
    is fresh. ``draw`` shows samples as `density_picture` does, beside the training points.
    Raises DataError where a set is empty or ``noise`` is not a finite number ≥ 0.
    """
    if min(train, heldout) < 1:
        raise DataError(f"train={train}, heldout={heldout}: each set needs at least 1 point")
    drawn = _roll(train + heldout, noise, seed, stream=1)
    image = drawn.reshape(-1, 1, 2, 1)
    return Dataset(
        name="swissroll",
        shape=(1, 2, 1),
        classes=0,
        train=ArraySource(image[:train]),
        heldout=ArraySource(image[train:]),
        dtype="float32",
        draw=lambda images: density_picture(drawn[:train], images.reshape(len(images), 2)),
    )


def points(count: int, seed: int, noise: float = 0.5) -> np.ndarray:
    """A fresh set: float32 [count, 2] in [-1, 1], independent for every ``seed`` ≥ 0.

    (t cos t, t sin t) with t uniform in [1.5π, 4.5π], plus Gaussian noise of standard deviation ``noise`` (arms are 2π
    apart), divided by 4.5π + 4·noise, and clipped, which touches less than one point in a million. The coordinates have
    standard deviations of 0.41 and 0.43.

    Two fresh sets of 10,000 are ``FRESH_DISTANCE`` = 0.0087 apart in the sliced Wasserstein distance (order 2, 256
    directions): the mean over 100 pairs, whose standard deviation is 0.0026; 6 of them are beyond 1.5 times the mean.
    The product of the marginals, y shuffled against x, is 0.047 from the roll, the Gaussian of its moments 0.090.

    Raises DataError where ``noise`` is not a finite number ≥ 0.
    """
    return _roll(count, noise, seed, stream=0)


def density_picture(data: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Densities of data [n, 2] (left) and samples [m, 2] (right), both x to the right and y up: uint8 [H, W, 3].

    A Gaussian kernel density, so that a few samples show as dots; its colour runs with the logarithm, on the scale of
    the data's own in both panels. Points outside the view are left out but counted, as are those with a NaN.
    Raises ValueError where no point of the data is in view.
    """
    from PIL import Image, ImageDraw, ImageFont

    left, right = _density(data), _density(samples)
    brightest = left.max()
    if brightest == 0:
        raise ValueError(f"none of the {len(data)} points of the data lies in [-{VIEW}, {VIEW}]²")
    canvas = Image.new("RGB", (2 * SIDE + 3 * GAP, SIDE + 2 * GAP), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for name, density, x in (("data", left, GAP), ("samples", right, SIDE + 2 * GAP)):
        level = np.log1p(DEPTH * np.minimum(density / brightest, 1)) / np.log1p(DEPTH)
        canvas.paste(Image.fromarray(_colour(level)), (x, GAP))
        draw.text((x + 8, GAP + 6), name, fill=_INK, font=font)
    return np.asarray(canvas)


def _roll(count: int, noise: float, seed: int, stream: int) -> np.ndarray:
    if not 0 <= noise < np.inf:
        raise DataError(f"noise={noise!r}: the standard deviation of the noise must be a finite number ≥ 0")
    # The pipeline shuffles epoch e by the bits of key (seed, e): these points' own would sort that epoch by angle.
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 2**63 + stream], np.uint64)))
    t = 1.5 * np.pi * (1 + 2 * rng.random(count))
    roll = np.stack([t * np.cos(t), t * np.sin(t)], axis=1) + noise * rng.standard_normal((count, 2))
    return (roll / (4.5 * np.pi + 4 * noise)).clip(-1, 1).astype(np.float32)


def _density(at: np.ndarray) -> np.ndarray:
    """Share of the points per pixel of a panel, [SIDE, SIDE], row 0 at the top."""
    from scipy.ndimage import gaussian_filter

    edges = np.linspace(-VIEW, VIEW, SIDE + 1)
    counts, _, _ = np.histogram2d(at[:, 1], at[:, 0], bins=(edges, edges))
    return gaussian_filter(counts[::-1] / max(len(at), 1), BLUR, mode="constant")


def _colour(level: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1] -> uint8 [H, W, 3], by linear interpolation between `COLOURS`."""
    anchors = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(level, anchors, channel) for channel in zip(*COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
