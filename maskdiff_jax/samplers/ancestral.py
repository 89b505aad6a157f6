"""Ancestral sampling (Ho, Jain & Abbeel 2020, eqs. 6-7 and section 3.2), generalised from VP to every process."""

import jax.numpy as jnp

from maskdiff_jax.diffusion.posterior import check_variance, log_variance, posterior
from maskdiff_jax.rng import normal
from maskdiff_jax.types import Process, Sampler


def ancestral(process: Process, variance: str = "small") -> Sampler:
    """Order 1 in the output's variance. Draws from q(x_s | x_t, x̂), the forward posterior at the denoiser's estimate.

    Its variance is the posterior's own where ``variance`` is 'small' (exact for a point mass), that of the forward step
    from s to t where it is 'large' (exact for standard normal data under VP), and between the two, in logarithms, at
    `Denoised.variance` where it is 'learned' (Nichol & Dhariwal 2021, eq. 15; the bounds are those of the step taken,
    so a model may be sampled with fewer steps than its table has).
    Raises ValueError for another name and for 'learned' on a process without a table; and, when a step is traced, for
    'learned' with a denoiser that has no variance.
    """
    check_variance("ancestral", process, variance)

    def step(denoiser, state, x, t, s, cond, keys):
        q = posterior(process, t, s)
        estimate = denoiser(x, t, cond)
        std = jnp.exp(log_variance(q, variance, estimate.variance) / 2)
        return q.from_x * estimate.x + q.from_x_t * x + std * normal(keys, x.shape[1:]), state

    return Sampler(init=lambda x: (), step=step)
