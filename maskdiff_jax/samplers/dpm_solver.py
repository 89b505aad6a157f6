"""DPM-Solver++, multistep, in the space of x (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

import jax.numpy as jnp

from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.types import Process, Sampler


def dpm_solver(process: Process, order: int = 2) -> Sampler:
    """Order 2 (2M) or 1 (then `ddim` itself), deterministic, one evaluation a step.

    The state is the previous estimate x̂ and the previous step in lambda = log(alpha/sigma). The first step has no
    history and is of order 1; so is the last one, to t = 0, as in the paper. Raises ValueError for another order.
    """
    if order not in (1, 2):
        raise ValueError(f"dpm_solver: order={order!r}: choose from 1, 2")

    def init(x):
        return (jnp.zeros_like(x), jnp.zeros((), x.dtype)) if order == 2 else ()

    def step(denoiser, state, x, t, s, cond, keys):
        now, then = coeffs(process, t), coeffs(process, s)
        h = (log_snr(then) - log_snr(now)) / 2
        x_hat = estimate = denoiser(x, t, cond).x
        if order == 2:
            before, h_before = state
            # 1/(2r), r = h_before/h, of a line through the two estimates; a step of 0 marks that there is no history
            lean = jnp.where(h_before > 0, h / (2 * jnp.where(h_before > 0, h_before, 1)), 0)
            estimate = x_hat + lean * (x_hat - before)
            state = (x_hat, h)
        return then.sigma / now.sigma * x - then.alpha * jnp.expm1(-h) * estimate, state

    return Sampler(init=init, step=step)
