"""How far a denoiser looks: the gradient of one output pixel with respect to its input, by noise level.

Sparsely Supervised Diffusion (Zhao et al. 2026, arXiv 2602.02699) shows such gradients at several t. How channels and
images are summed up is not specified by the paper: here absolute values, which do not cancel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.evaluate.bias import DenoiserOf, by_image, check_times, noised
from maskdiff_jax.types import Array, Batch, Params, Process


class Context(NamedTuple):
    """What the output ``pixel`` (row, column) at ``t`` depends on.

    ``map`` [h, w] float64: the mean over images of Σ |∂x̂(pixel, channel)/∂x_t(row, column, channel)|, over both
    channels. ``outside``: the share of its sum outside the window of (2·radius + 1)² pixels around the pixel;
    ``distance``: the mean Euclidean distance to the pixel under it, in pixels. Both are ratios of means over images,
    beside their standard errors (to first order); NaN where the gradient is 0.
    """

    t: float
    pixel: tuple[int, int]
    map: np.ndarray
    outside: float
    outside_error: float
    distance: float
    distance_error: float


def make_context(
    denoiser_of: DenoiserOf,
    process: Process,
    t: Sequence[float],
    pixels: Sequence[tuple[int, int]],
    *,
    radius: int = 2,
    batch_size: int = 64,
    seed: int = 0,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> Callable[[Params, Batch], list[Context]]:
    """``measure(params, data) -> [Context, ...]``, for each ``t`` one for each of ``pixels`` (row, column).

    ``data`` and their noise are as in `make_bias`. A batch takes one forward pass and a backward pass for each pixel
    and channel, one compilation in all. Leave the denoiser unclipped: where x̂ is clipped it depends on nothing.
    Raises ValueError for a t outside [t_min, t_max], no pixel or a radius below 0; ``measure`` for a pixel that is not
    of the image, or fewer than 2 images.
    """
    check_times(process, t)
    if not pixels or radius < 0:
        raise ValueError(f"pixels={list(pixels)}, radius={radius}: at least one pixel, and a radius of at least 0")

    @jax.jit
    def maps(params: Params, batch: Batch, ids: Array, t: Array) -> tuple[Array]:
        x_t = noised(process, batch.image, t, ids, seed)
        denoiser = denoiser_of(params)
        x, pull = jax.vjp(lambda x_t: denoiser(x_t, t, batch.cond).x, x_t)
        c = x.shape[-1]
        elements = jnp.asarray([(*pixel, channel) for pixel in pixels for channel in range(c)])

        def gradient(element: Array) -> Array:
            """[b, h, w]: images do not meet in a denoiser, so one cotangent serves all of them."""
            i, j, k = element
            (found,) = pull(jnp.zeros_like(x).at[:, i, j, k].set(1))
            return jnp.abs(found).sum(axis=-1)

        found = jax.lax.map(gradient, elements)
        return (jnp.moveaxis(found.reshape(len(pixels), c, *found.shape[1:]).sum(axis=1), 0, 1),)

    def measure(params: Params, data: Batch) -> list[Context]:
        _, h, w, _ = np.shape(data.image)
        if outside := [pixel for pixel in pixels if not (0 <= pixel[0] < h and 0 <= pixel[1] < w)]:
            raise ValueError(f"pixels={outside}: not in an image of {h}x{w}")
        rows = []
        for now in t:
            (found,) = by_image(maps, params, data, now, batch_size, place, collect)  # [n, pixels, h, w]
            rows += [_summary(float(now), pixel, found[:, i], radius) for i, pixel in enumerate(pixels)]
        return rows

    return measure


def _summary(t: float, pixel: tuple[int, int], maps: np.ndarray, radius: int) -> Context:
    """From the maps of all images [n, h, w]."""
    down, across = np.ogrid[tuple(slice(-at, length - at) for at, length in zip(pixel, maps.shape[1:], strict=True))]
    far = np.maximum(np.abs(down), np.abs(across)) > radius
    outside, distance = (
        _ratio((maps * part).sum(axis=(1, 2)), maps.sum(axis=(1, 2))) for part in (far, np.hypot(down, across))
    )
    return Context(t, pixel, maps.mean(axis=0), *outside, *distance)


def _ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """mean(part)/mean(whole) of [n] each, and its standard error by the delta method; NaN where whole is 0."""
    if not whole.any():
        return float("nan"), float("nan")
    ratio = part.mean() / whole.mean()
    return float(ratio), float((part - ratio * whole).std(ddof=1) / len(whole) ** 0.5 / whole.mean())
