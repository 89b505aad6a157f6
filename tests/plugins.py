"""A user's own parts, which a config names as ``tests.plugins:…``: no fork, no registration."""

import jax.numpy as jnp

from maskdiff_jax.diffusion import prediction
from maskdiff_jax.masks import dense
from maskdiff_jax.models import dit
from maskdiff_jax.samplers import ddim
from maskdiff_jax.types import Model, Process, Sampler, Supervision, Weighting


def left_half() -> Supervision:
    """Loss on the left half of every token or image."""

    def sample(keys, shape):
        mask = jnp.arange(shape[-2]) < shape[-2] // 2
        return jnp.broadcast_to(mask[:, None], (keys.shape[0], *shape))

    return dense()._replace(sample=sample, normalise=lambda mask, shape: 1 / jnp.sum(mask, range(1, mask.ndim)))


def power(exponent: float = 1.0) -> Weighting:
    """SNR^exponent on x."""
    return Weighting(prediction.x(), lambda c: (c.alpha / c.sigma) ** (2 * exponent))


def half_noisy(process: Process) -> Sampler:
    return ddim(process, eta=0.5)


def small_dit(image_shape, classes=0) -> Model:
    return dit(image_shape, classes, width=16, depth=1, heads=2, patch=4)
