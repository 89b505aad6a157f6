"""Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without its correction)."""

from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.types import Array, Cond, Denoiser, Process, Sampler


def slope(process: Process, denoiser: Denoiser, x: Array, t: Array, cond: Cond) -> Array:
    """dx/dt = alpha'(t) x̂ + sigma'(t) ε̂, the probability-flow ODE in the process's own t."""
    c = coeffs(process, t)
    x_hat = denoiser(x, t, cond).x
    return c.dalpha * x_hat + c.dsigma / c.sigma * (x - c.alpha * x_hat)


def euler(process: Process) -> Sampler:
    """Order 1, deterministic. The same as `ddim` where alpha and sigma are linear in t (linear_flow, edm)."""

    def step(denoiser, state, x, t, s, cond, keys):
        return x + (s - t) * slope(process, denoiser, x, t, cond), state

    return Sampler(init=lambda x: (), step=step)
