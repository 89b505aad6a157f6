"""DDIM (Song, Meng & Ermon 2021, eqs. 12 and 16), generalised from VP to every process."""

import jax.numpy as jnp

from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.rng import normal
from maskdiff_jax.types import Process, Sampler


def ddim(process: Process, eta: float = 0.0) -> Sampler:
    """Order 1. Keeps the forward marginals whatever ``eta``: 0 is deterministic, 1 is ancestral sampling.

    With r = SNR(t)/SNR(s), x_s = alpha_s x̂ + sigma_s (√(1 - eta²(1 - r)) ε̂ + eta √(1 - r) z).
    Raises ValueError where ``eta`` is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim: eta must be in [0, 1], got {eta}")

    def step(denoiser, state, x, t, s, cond, keys):
        now, then = coeffs(process, t), coeffs(process, s)
        gain = log_snr(now) - log_snr(then)
        x_hat = denoiser(x, t, cond).x
        keep = jnp.sqrt((1 - eta**2) + eta**2 * jnp.exp(gain))  # not 1 - eta²(1 - r), which cancels where r is tiny
        x = then.alpha * x_hat + then.sigma / now.sigma * keep * (x - now.alpha * x_hat)
        if eta > 0:
            x = x + eta * then.sigma * jnp.sqrt(-jnp.expm1(gain)) * normal(keys, x.shape[1:])
        return x, state

    return Sampler(init=lambda x: (), step=step)
