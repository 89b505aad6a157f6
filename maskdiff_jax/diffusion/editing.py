"""Editing images with any denoiser and any sampler: filling in what a mask leaves out, and starting from an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.rng import key_for, normal
from maskdiff_jax.types import Array, Cond, Denoised, Denoiser, Key, Process


def inpaint(
    known: Float[Array, "b h w c"], mask: Bool[Array, "#b #h #w #c"], iterations: int = 1
) -> Callable[[Denoiser], Denoiser]:
    """The denoiser of images that equal ``known`` where ``mask`` is True: those pixels are kept exactly.

    There the estimate is replaced. Because samplers carry a constant estimate from marginal to marginal, the known part
    of x_t is then alpha·known + sigma·eps without further ado, with the eps of the starting noise or, in a stochastic
    sampler, of fresh noise: this is the replacement method of Song et al. (2021).

    Alone it is biased: the denoiser sees the known pixels under the noise of x_t only, and the fill hardly follows them
    (in a Gaussian test, less than half of the way to the conditional mean). So elsewhere the estimate moves by the
    regression of the unknown pixels on the known ones, P_uk P_kk⁻¹ (known - x̂_k), where P = sigma²/alpha · ∂x̂/∂x_t is
    the covariance of x given x_t. Conjugate gradients on each image solve for it; each of ``iterations`` is a backward
    pass through the denoiser: 0 is plain replacement; 1 differs from the guidance of Song, Vahdat, Mardani & Kautz
    (2023, ΠGDM) in that the estimate itself sets its scale; as many as there are known pixels make it exact on Gaussian
    data. A trained network's Jacobian is not quite a covariance: on digits 0 and 1 fill well and 3 leaves artefacts.
    RePaint's resampling is not included: it is a matter of the loop.

    A curvature that is not positive, which no true posterior has, stops the iterations of its image.
    Raises ValueError where ``iterations`` is negative.
    """
    if iterations < 0:
        raise ValueError(f"inpaint: iterations must be at least 0, got {iterations}")

    def wrap(denoiser: Denoiser) -> Denoiser:
        def inpainted(x: Float[Array, "b h w c"], t: Array, cond: Cond) -> Denoised:
            if iterations == 0:
                estimate = denoiser(x, t, cond)
                return estimate._replace(x=jnp.where(mask, known, estimate.x))

            def answer(x):
                estimate = denoiser(x, t, cond)
                return estimate.x, estimate.variance

            x_hat, pull_back, variance = jax.vjp(answer, x, has_aux=True)
            fill = _regress(lambda v: pull_back(v)[0], jnp.where(mask, known - x_hat, 0), mask, iterations)
            return Denoised(jnp.where(mask, known, x_hat + fill), variance)

        return inpainted

    return wrap


def _regress(jacobian: Callable[[Array], Array], residual: Array, mask: Array, iterations: int) -> Array:
    """J v, where v on the mask solves (J v)_mask = residual; conjugate gradients on each image [b, ...] of its own."""

    def dot(a, b):
        return jnp.sum(a * b, axis=range(1, a.ndim), keepdims=True)

    fill, direction, size = jnp.zeros_like(residual), residual, dot(residual, residual)
    for _ in range(iterations):
        moved = jacobian(direction)
        curvature = dot(direction, moved)  # a direction is 0 outside the mask
        sound = curvature > 0
        length = jnp.where(sound, size / jnp.where(sound, curvature, 1), 0)
        fill = fill + length * moved
        residual = residual - length * jnp.where(mask, moved, 0)
        before, size = size, dot(residual, residual)
        direction = jnp.where(sound, residual + size / jnp.where(before > 0, before, 1) * direction, 0)
    return fill


def image_to_image(
    process: Process, times: Float[Array, " m"], x: Float[Array, "b ..."], strength: float, keys: Key
) -> tuple[Float[Array, "b ..."], Float[Array, " k"]]:
    """(x_t, its times) from which `sample` redraws the images ``x``: SDEdit (Meng et al. 2022).

    ``times`` [n + 1] come from a spacing. Sampling starts at the first of them that is at most ``strength``·t_max, with
    x_t = alpha·x + sigma·z there, one z per key [b]; what is coarser than that noise stays. 1 takes all the times.
    Raises ValueError where ``strength`` is outside (0, 1] or below the last time before 0.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"image_to_image: strength must be in (0, 1], got {strength}")
    first = int(np.argmax(np.asarray(times) <= strength * process.t_max * (1 + 1e-6)))  # float32 times
    if first == len(times) - 1:
        raise ValueError(f"image_to_image: strength={strength:g} is below all times but 0: use more steps")
    c = coeffs(process, times[first])
    return c.alpha * x + c.sigma * normal(key_for(keys, "image_to_image"), x.shape[1:]), times[first:]
