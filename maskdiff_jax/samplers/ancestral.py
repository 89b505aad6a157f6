"""Ancestral sampling (Ho, Jain & Abbeel 2020, eqs. 6-7 and section 3.2), generalised from VP to every process."""

import jax.numpy as jnp

from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.rng import normal
from maskdiff_jax.types import Process, Sampler

VARIANCES = ("small", "large")


def ancestral(process: Process, variance: str = "small") -> Sampler:
    """Order 1 in the output's variance. Draws from q(x_s | x_t, x̂), the forward posterior at the denoiser's estimate.

    With r = SNR(t)/SNR(s) and so sigma²_{t|s} = sigma_t²(1 - r), its mean is alpha_s(1 - r) x̂ + √r sigma_s/sigma_t x_t.
    Its variance is the posterior's own, sigma_s²(1 - r), where ``variance`` is 'small' (exact for a point mass), and
    sigma²_{t|s} where it is 'large' (exact for standard normal data under VP). Raises ValueError for another name.
    """
    if variance not in VARIANCES:
        raise ValueError(f"ancestral: variance={variance!r}: choose from {', '.join(VARIANCES)}")

    def step(denoiser, state, x, t, s, cond, keys):
        now, then = coeffs(process, t), coeffs(process, s)
        gain = log_snr(now) - log_snr(then)
        left = -jnp.expm1(gain)  # 1 - r
        x_hat = denoiser(x, t, cond).x
        mean = then.alpha * left * x_hat + jnp.exp(gain / 2) * then.sigma / now.sigma * x
        sigma = then.sigma if variance == "small" else now.sigma
        return mean + sigma * jnp.sqrt(left) * normal(keys, x.shape[1:]), state

    return Sampler(init=lambda x: (), step=step)
