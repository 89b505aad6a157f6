"""From a network to a denoiser: the estimate of the clean image, which is all that a sampler sees."""

from typing import cast

import jax.numpy as jnp
from jaxtyping import Float

from maskdiff_jax.diffusion.inputs import feed
from maskdiff_jax.diffusion.prediction import to_x
from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.tokens import assemble
from maskdiff_jax.types import (
    Array,
    Cond,
    Denoised,
    Denoiser,
    Inputs,
    Model,
    Params,
    Phase,
    Prediction,
    Process,
)


def make_denoiser(
    model: Model,
    params: Params,
    process: Process,
    prediction: Prediction,
    inputs: Inputs,
    clip: tuple[float, float] | None = None,
    phase: Phase | None = None,
) -> Denoiser:
    """(x_t [b, h, w, c], t [b] or scalar, cond) -> Denoised, with x held inside ``clip`` where that is given.

    ``phase``: how far low-level controls are let in at t; as in training.
    Call it inside a jitted function that has ``params`` as an argument: a closure over parameters that lives longer
    bakes them into the compiled program.
    """

    def denoise(x_t: Float[Array, "b h w c"], t: Array, cond: Cond) -> Denoised:
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x_t.shape[:1])
        c = coeffs(process, t)
        output = model.apply(params, *feed(inputs, process, c, x_t, t, cond, phase))
        x = to_x(prediction, c, x_t, as_image(model, output.prediction))
        x = x if clip is None else jnp.clip(x, *clip)
        return Denoised(x, None if output.variance is None else as_image(model, output.variance))

    return denoise


def as_image(model: Model, units: Array | tuple[Array, ...]) -> Array:
    """The answer for all tokens [b, n, p, p, c], or for all segments, as an image [b, h, w, c]; an image stays one."""
    if model.tokens is None:
        return cast(Array, units)
    return assemble(units, model.tokens)
