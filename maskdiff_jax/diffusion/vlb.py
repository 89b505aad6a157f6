"""The variational bound on -log p(x) of a discrete process, term by term, in nats per element.

-log p(x) <= KL(q(x_T | x) ‖ p(x_T)) + Σ_{i=2..T} KL(q(x_{i-1} | x_i, x) ‖ p(x_{i-1} | x_i)) - log p(x | x_1), where
entry i of the table is t = i/T (Ho et al. 2020, eq. 5). p(x_{i-1} | x_i) is the posterior at the denoiser's x̂, with one
of the variances of `posterior.log_variance`.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Float

from maskdiff_jax.diffusion.posterior import Posterior, log_variance, posterior
from maskdiff_jax.diffusion.prediction import det, like
from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.types import Array, Prediction, Process

BIN = 2 / 255  # between neighbouring grey levels of an 8-bit image in [-1, 1]
_OPEN = 100.0  # standard deviations that stand for infinity: no mass is left, and derivatives stay finite


def gaussian_kl(squared_distance: Array, log_q: Array, log_p: Array) -> Array:
    """KL(N(m, q) ‖ N(m', p)) per element from (m - m')² and the two log variances."""
    gap = log_p - log_q
    return (gap + jnp.expm1(-gap) + squared_distance * jnp.exp(-log_p)) / 2  # expm1: both cancel where gap is small


def discretised_gaussian_nll(x: Array, mean: Array, log_var: Array) -> Array:
    """-log of the mass that N(mean, exp(log_var)) puts on the grey level of x in [-1, 1] (Ho et al. 2020, eq. 13).

    The bin of x is [x - 1/255, x + 1/255]; those of -1 and 1 are open to the outside. Exact in both tails.
    """
    std = jnp.exp(log_var / 2)
    below, above = (x - BIN / 2 - mean) / std, (x + BIN / 2 - mean) / std
    edge = 1 - BIN / 2
    low = jnp.where(x < -edge, jnp.minimum(above, 0) - _OPEN, below)
    high = jnp.where(x > edge, jnp.maximum(below, 0) + _OPEN, above)
    low, high = jnp.where(low > 0, -high, low), jnp.where(low > 0, -low, high)  # the left tail keeps its digits
    low, high = log_ndtr(low), log_ndtr(high)
    return -high - jnp.log(jnp.maximum(-jnp.expm1(low - high), jnp.finfo(x.dtype).tiny))


def prior_nats(process: Process, x: Array) -> Array:
    """KL(q(x_{t_max} | x) ‖ N(0, sigma(t_max)²)) per element: the price of starting from noise alone.

    The prior is the one that sampling starts from (`samplers.initial_noise`), on every process.
    """
    c = coeffs(process, process.t_max)
    return jnp.square(c.alpha / c.sigma * x) / 2


def table_length(process: Process) -> int:
    """T. Raises ValueError for a process without a table of at least two steps."""
    if process.steps is None or process.steps < 2:
        raise ValueError("the variational bound needs a table of at least 2 steps: ddpm_linear or ddpm_cosine")
    return process.steps


def table_posterior(process: Process, t: Float[Array, " b"]) -> Posterior:
    """The posterior [b] of the step from t [b] to t - 1/T, with bounds that are finite at the first entry as well.

    There s = 0 and the posterior is a point; its log_small is then that of the second entry, as in the code of both
    papers. (For 'large' Ho et al.'s code takes the same value; here 'large' is sigma_1² as everywhere, so that learned
    v = 1 is 'large'.) Raises ValueError as `table_length` does.
    """
    steps, first = table_length(process), _is_first(process, t)
    q = posterior(process, t, jnp.where(first, 0, jnp.maximum(steps * t - 1, 0) / steps))
    return q._replace(log_small=jnp.where(first, posterior(process, 2 / steps, 1 / steps).log_small, q.log_small))


def step_nats(
    process: Process,
    t: Float[Array, " b"],
    x: Float[Array, "b ..."],
    x_hat: Float[Array, "b ..."],
    variance: str = "small",
    v: Float[Array, "b ..."] | None = None,
) -> Float[Array, "b ..."]:
    """The bound's term of the step that leaves t [b], nats per element: a KL, and at t = 1/T the decoder's -log p.

    ``variance`` and v as in `posterior.log_variance`. For a t between two entries the step is the one to t - 1/T.
    Raises ValueError as `table_posterior` and `log_variance` do.
    """
    q = table_posterior(process, t)
    log_p = log_variance(q, variance, v)
    log_p = like(log_p, x) if log_p.ndim == 1 else log_p
    kl = gaussian_kl(jnp.square(like(q.from_x, x) * (x - x_hat)), like(q.log_small, x), log_p)
    first = like(_is_first(process, t), x)
    return jnp.where(first, discretised_gaussian_nll(x, jnp.where(first, x_hat, x), log_p), kl)


def vlb_term(
    process: Process,
    prediction: Prediction,
    t: Float[Array, " b"],
    x: Float[Array, "b ..."],
    error: Float[Array, "b ..."],
    v: Float[Array, "b ..."],
) -> Float[Array, "b ..."]:
    """What trains a learned variance: T times `step_nats` per element, with the mean detached.

    ``error`` is output minus target in the space of ``prediction``, on any units of the image (all, or gathered tokens)
    as long as x and v are those too; no gradient reaches it, so the network's estimate is left to the loss on it
    (Nichol & Dhariwal 2021, section 3.1). T times: for t uniform on the table the expectation is the whole bound
    without its prior.
    """
    c = coeffs(process, t)
    x_hat = x - like(c.sigma / det(prediction, c), x) * jax.lax.stop_gradient(error)
    return table_length(process) * step_nats(process, t, x, x_hat, "learned", v)


def _is_first(process: Process, t: Array) -> Array:
    return table_length(process) * t < 1.5
