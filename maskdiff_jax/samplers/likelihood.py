"""The likelihood of images under the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.rng import key_for
from maskdiff_jax.samplers.spacing import log_snr as spaced_in_log_snr
from maskdiff_jax.types import Array, Cond, Denoiser, Key, Process


def log_likelihood(
    denoiser: Denoiser,
    process: Process,
    x: Float[Array, "b ..."],
    cond: Cond,
    keys: Key,
    steps: int = 100,
    exact: bool = False,
) -> Float[Array, " b"]:
    """log p(x) in nats per image, a density over the elements of ``x``: bits/dim are `bits_per_dim` of it.

    The model is the distribution that the ODE carries from N(0, sigma(t_max)²) to t_min, where x stands for itself,
    without the noise of t_min. Heun's method takes ``steps`` steps, two evaluations each, uniform in log SNR.

    The trace of the denoiser's Jacobian is estimated with one Rademacher vector per image, drawn from ``keys`` [b] and
    kept for the whole path (Hutchinson; unbiased for log p up to the error of the steps). ``exact`` takes it element by
    element, which multiplies memory and time by their number: for tests and toys.
    Raises ValueError where ``steps`` < 1.
    """
    if steps < 1:
        raise ValueError(f"log_likelihood: needs steps >= 1, got {steps}")
    # With v = x_t/√(alpha² + sigma²) and lambda = log(alpha/sigma) every process is the same ODE,
    # dv/dlambda = a(x̂ - a v), a = alpha/√(alpha² + sigma²), and its slope is bounded at both ends.
    t = spaced_in_log_snr()(process, steps + 1)[-2::-1]
    c = coeffs(process, t)
    scale, lam = jnp.hypot(c.alpha, c.sigma), log_snr(c) / 2
    a, sigma = c.alpha / scale, c.sigma / scale
    d = math.prod(x.shape[1:])
    probes = _basis(x) if exact else _signs(keys, x)

    def slope(v, i):
        """dv/dlambda and its divergence [b]."""
        estimate = lambda v: denoiser(scale[i] * v, t[i], cond).x  # noqa: E731
        x_hat, moved = jax.vmap(lambda e: jax.jvp(estimate, (v,), (e,)), out_axes=(None, 0))(probes)
        trace = jnp.sum(jax.vmap(_dot)(probes, moved), axis=0)
        return a[i] * (x_hat - a[i] * v), a[i] * (trace - a[i] * d)

    def step(carry, i):
        v, change = carry
        h = lam[i + 1] - lam[i]
        at_i, divergence_i = slope(v, i)
        at_j, divergence_j = slope(v + h * at_i, i + 1)
        return (v + h / 2 * (at_i + at_j), change + h / 2 * (divergence_i + divergence_j)), None

    (v, change), _ = jax.lax.scan(step, (a[0] * x, jnp.zeros(x.shape[0])), jnp.arange(steps))
    log_prior = -_dot(v, v) / (2 * sigma[-1] ** 2) - d * (jnp.log(sigma[-1]) + math.log(2 * math.pi) / 2)
    return log_prior + change + d * jnp.log(a[0])


def dequantise(keys: Key, x: Float[Array, "b ..."], levels: int = 256) -> Float[Array, "b ..."]:
    """x plus noise uniform over the width of a level, 2/(levels - 1) for ``levels`` that run from -1 to 1."""
    draw = lambda key: jax.random.uniform(key, x.shape[1:], minval=-1, maxval=1) / (levels - 1)  # noqa: E731
    return x + jax.vmap(draw)(key_for(keys, "dequantise"))


def bits_per_dim(log_p: Float[Array, " b"], d: int, levels: int = 256) -> Float[Array, " b"]:
    """Bits per element of a density [b], in nats, at an image of ``d`` elements from `dequantise`.

    Its mean over the noise is an upper bound of -log2 P(image)/d, P being the mass of the image's bin
    (Theis, van den Oord & Bethge 2016, eq. 4).
    """
    return -log_p / (d * math.log(2)) - math.log2(2 / (levels - 1))


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=range(1, a.ndim))


def _signs(keys: Key, x: Array) -> Array:
    """One probe [1, b, ...] of +1 and -1."""
    draw = lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype)  # noqa: E731
    return jax.vmap(draw)(key_for(keys, "hutchinson"))[None]


def _basis(x: Array) -> Array:
    """The d unit images, as probes [d, b, ...]."""
    d = math.prod(x.shape[1:])
    units = jnp.eye(d, dtype=x.dtype).reshape(d, 1, *x.shape[1:])
    return jnp.broadcast_to(units, (d, *x.shape))
