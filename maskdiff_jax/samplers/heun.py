"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1, when the process is edm)."""

from maskdiff_jax.samplers.euler import slope
from maskdiff_jax.types import Process, Sampler


def heun(process: Process) -> Sampler:
    """Order 2, deterministic, two evaluations a step: 2n - 1 for n times, because the last step is the denoiser's."""

    def step(denoiser, state, x, t, s, cond, keys):
        at_t = slope(process, denoiser, x, t, cond)
        at_s = slope(process, denoiser, x + (s - t) * at_t, s, cond)
        return x + (s - t) / 2 * (at_t + at_s), state

    return Sampler(init=lambda x: (), step=step)
