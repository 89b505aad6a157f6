"""Where a sampler stops on its way from noise to data.

Every spacing returns t[n + 1], concrete float32 also inside jit, strictly decreasing from t_max to 0 with t[n - 1] at
or above t_min: the denoiser is never asked below the range of training.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.diffusion.process import log_snr as log_snr_of
from maskdiff_jax.types import Array, Process, Spacing


def _spacing(name: str, evaluated: Callable[[Process, int], np.ndarray]) -> Spacing:
    """A spacing from the function (process, n) -> t[n] of the times at which the denoiser is evaluated."""

    def spacing(process: Process, n: int) -> Array:
        if n < 1:
            raise ValueError(f"{name}: a sampler needs n >= 1 steps, got {n}")
        with jax.ensure_compile_time_eval():
            t = np.clip(evaluated(process, n), process.t_min, process.t_max)
            t[0] = process.t_max  # free of the rounding of an inverse
            t = np.append(t, 0).astype(np.float32)
            if not np.all(np.diff(t) < 0):
                raise ValueError(f"{name}: n={n} is too many steps for this process: the times are not distinct")
            return jnp.asarray(t)

    return spacing


def uniform() -> Spacing:
    """t = t_max (1 - i/n). On a discrete process of which n divides the table these are entries of the table.

    Raises ValueError where n < 1, or so large that the last evaluation falls below t_min.
    """

    def evaluated(process, n):
        if process.t_max / n < process.t_min * (1 - 1e-6):  # n = T on a table is meant to fit exactly
            most = int(process.t_max / process.t_min * (1 + 1e-6))
            raise ValueError(f"uniform: n={n} steps go below t_min={process.t_min:g}: at most {most} fit")
        return process.t_max * (1 - np.arange(n) / n)

    return _spacing("uniform", evaluated)


def log_snr() -> Spacing:
    """n times uniform in log SNR from t_max to t_min, then 0 (Lu et al. 2022). Raises ValueError where n < 1."""

    def evaluated(process, n):
        first, last = _range(process)
        return _from_log_snr(process, np.linspace(first, last, n))

    return _spacing("log_snr", evaluated)


def karras(rho: float = 7.0) -> Spacing:
    """n times uniform in (sigma/alpha)^(1/rho) from t_max to t_min, then 0 (Karras et al. 2022, eq. 5).

    Raises ValueError where rho is not positive or n < 1.
    """
    if not 0 < rho < np.inf:
        raise ValueError(f"karras: rho must be positive and finite, got {rho}")

    def evaluated(process, n):
        first, last = np.exp(_range(process) / (-2 * rho))  # SNR = (sigma/alpha)^-2
        return _from_log_snr(process, -2 * rho * np.log(np.linspace(first, last, n)))

    return _spacing("karras", evaluated)


def respaced() -> Spacing:
    """n entries of a discrete process's table, first and last included, evenly spaced and rounded, then 0.

    The respacing of Nichol & Dhariwal (2021, section 4). Raises ValueError for a process without a table, for n < 1 and
    for n above its length.
    """

    def evaluated(process, n):
        if process.steps is None:
            raise ValueError("respaced: this process has no table of steps: choose another spacing")
        return (np.round(np.linspace(process.steps - 1, 0, n)) + 1) / process.steps

    return _spacing("respaced", evaluated)


def _range(process: Process) -> np.ndarray:
    """log SNR at t_max and at t_min."""
    return np.asarray(log_snr_of(coeffs(process, jnp.array([process.t_max, process.t_min]))), np.float64)


def _from_log_snr(process: Process, values: np.ndarray) -> np.ndarray:
    return np.array(process.t_of_log_snr(jnp.asarray(values, jnp.float32)), np.float64)


SPACINGS = {"uniform": uniform, "log_snr": log_snr, "karras": karras, "respaced": respaced}
