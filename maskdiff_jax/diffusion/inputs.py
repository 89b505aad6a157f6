"""What a network is fed: ``scale·x_t`` and a noise level. One function applies it, for training and for sampling."""

import jax.numpy as jnp

from maskdiff_jax.diffusion.prediction import like
from maskdiff_jax.types import Array, Coeffs, Cond, Inputs, Phase, Process


def default() -> Inputs:
    """x_t itself, and t in [0, 1] as the level."""
    return lambda process, c, t: (jnp.ones_like(t), t)


def discrete() -> Inputs:
    """x_t itself, and the table index T·t - 1 in [0, T - 1] as the level (Ho et al. 2020).

    Raises ValueError, when applied, for a process without a table.
    """

    def apply(process: Process, c: Coeffs, t: Array) -> tuple[Array, Array]:
        if process.steps is None:
            raise ValueError("inputs 'discrete' need a process with a table of steps: ddpm_linear or ddpm_cosine")
        return jnp.ones_like(t), process.steps * t - 1

    return apply


def edm(data_std: float = 0.5) -> Inputs:
    """x_t scaled to unit variance, and log(sigma/alpha)/4 as the level (Karras et al. 2022, c_in and c_noise).

    Raises ValueError unless data_std > 0.
    """
    if not data_std > 0:
        raise ValueError(f"data_std must be > 0, got {data_std}")
    return lambda process, c, t: (1 / jnp.hypot(c.alpha * data_std, c.sigma), jnp.log(c.sigma / c.alpha) / 4)


INPUTS = {"default": default, "discrete": discrete, "edm": edm}


def feed(
    inputs: Inputs, process: Process, c: Coeffs, x_t: Array, t: Array, cond: Cond, phase: Phase | None = None
) -> tuple[Array, Array, Cond]:
    """The network's inputs for x_t [b, ...] at t [b]: the scaled image, the level [b], the conditions with phase(t)."""
    scale, level = inputs(process, c, t)
    return like(scale, x_t) * x_t, level, cond if phase is None else cond._replace(phase=phase(t))
