"""The forward posterior q(x_s | x_t, x), s < t, of every process: what one reverse step imitates."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import ArrayLike

from maskdiff_jax.diffusion.prediction import like
from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.types import Array, Process

VARIANCES = ("small", "large", "learned")


class Posterior(NamedTuple):
    """q(x_s | x_t, x) = N(from_x·x + from_x_t·x_t, exp(log_small)), and the larger variance that a step may take.

    With r = SNR(t)/SNR(s): log_small is the posterior's own log variance, of sigma_s²(1 - r), Ho et al.'s beta~;
    log_large that of the forward step, sigma²_{t|s} = sigma_t²(1 - r), their beta_t. A reverse step that is exact lies
    at the first for a point mass and at the second for standard normal data under VP.
    """

    from_x: Array
    from_x_t: Array
    log_small: Array
    log_large: Array


def posterior(process: Process, t: ArrayLike, s: ArrayLike) -> Posterior:
    """The posterior from t to s < t, in the broadcast shape of the two (Ho, Jain & Abbeel 2020, eqs. 6-7, for VP).

    At s = 0 all of x_s is x, and log_small is -inf.
    """
    now, then = coeffs(process, t), coeffs(process, s)
    gain = log_snr(now) - log_snr(then)
    left = -jnp.expm1(gain)  # 1 - r
    return Posterior(
        from_x=then.alpha * left,
        from_x_t=jnp.exp(gain / 2) * then.sigma / now.sigma,
        log_small=2 * jnp.log(then.sigma) + jnp.log(left),
        log_large=2 * jnp.log(now.sigma) + jnp.log(left),
    )


def log_variance(q: Posterior, variance: str, v: Array | None = None) -> Array:
    """The log variance of a reverse step: 'small', 'large', or 'learned' from a network's v [b, ...] in [0, 1].

    v·log_large + (1 - v)·log_small, of the shape of v (Nichol & Dhariwal 2021, eq. 15); v = 0 is 'small' and v = 1
    'large' to the bit. The fixed ones have the shape of the posterior. Raises ValueError where v is needed and None.
    """
    if variance != "learned":
        return q.log_small if variance == "small" else q.log_large
    if v is None:
        raise ValueError("variance='learned' needs a network that returns one: a model with learned_variance=True")
    return v * like(q.log_large, v) + (1 - v) * like(q.log_small, v)


def check_variance(name: str, process: Process, variance: str) -> None:
    """Raise ValueError, with ``name`` in front, for an unknown choice or a learned variance on a continuous process."""
    if variance not in VARIANCES:
        raise ValueError(f"{name}: variance={variance!r}: choose from {', '.join(VARIANCES)}")
    if variance == "learned" and process.steps is None:
        raise ValueError(f"{name}: variance='learned' needs a process with a table of steps: ddpm_linear, ddpm_cosine")
