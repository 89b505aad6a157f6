"""Closed-form denoisers, E[x | x_t], of data whose distribution is known; and the sampling loop written out."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.rng import key_for
from maskdiff_jax.types import Denoised


def point_mass(value):
    """All data are ``value``. Not a number in x stays one, so that a wrong step shows."""
    return lambda x, t, cond: Denoised(value + 0 * x)


def gaussian(process, mean, std):
    """Every element of x is N(mean, std²)."""

    def denoiser(x, t, cond):
        c = coeffs(process, t)
        gain = c.alpha * std**2 / (c.alpha**2 * std**2 + c.sigma**2)
        return Denoised(mean + gain * (x - c.alpha * mean))

    return denoiser


def gaussian_flow(process, mean, std, x, t):
    """The exact solution at t = 0 of the probability-flow ODE through ``x`` at ``t``, for the data of `gaussian`."""
    c = coeffs(process, t)
    return mean + std * (x - c.alpha * mean) / jnp.sqrt(c.alpha**2 * std**2 + c.sigma**2)


def correlated(process, mean, cov):
    """x [b, ..., d] from N(mean, cov), d its last axis and the only one longer than 1."""
    spread, axes = (jnp.float32(a) for a in np.linalg.eigh(np.float64(cov)))

    def denoiser(x, t, cond):
        c = coeffs(process, t)
        gain = c.alpha * spread / (c.alpha**2 * spread + c.sigma**2)
        away = x.reshape(len(x), -1) - c.alpha * mean[None]
        return Denoised((mean[None] + (away @ axes * gain[None]) @ axes.T).reshape(x.shape))

    return denoiser


def mixture(process, weights, means, std):
    """x [b, 1, 1, d] from a mixture of N(means[m], std² I) with ``weights`` [m]."""

    def denoiser(x, t, cond):
        c = coeffs(process, t)
        total = c.alpha**2 * std**2 + c.sigma**2
        away = x - c.alpha * means[None, None]  # [b, 1, m, d]
        log_p = jnp.log(weights)[None, None] - (away**2).sum(-1) / (2 * total)
        each = means[None, None] + c.alpha * std**2 / total * away
        return Denoised((jax.nn.softmax(log_p)[..., None] * each).sum(2, keepdims=True))

    return denoiser


def walk(denoiser, sampler, times, x, cond, keys):
    """`sample` as a plain loop, which compiles nothing."""
    state, keys = sampler.init(x), key_for(keys, "sampler_step")
    for i in range(len(times) - 2):
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
        x, state = sampler.step(denoiser, state, x, times[i], times[i + 1], cond, step_keys)
    return denoiser(x, times[-2], cond).x
