"""Samplers of t: a draw of uniform numbers u, and the quantile function of a distribution on the process's range.

Each returns (t[b], weight[b]) with E[weight·f(t)] = the mean of f over [t_min, t_max] (over the table, for
`discrete_uniform`), except `logit_normal` and `edm_lognormal`: their papers choose a biased rule on purpose, weight 1.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from maskdiff_jax.types import Array, Key, Process, Times


def sample(times: Times, process: Process, key: Key, b: int) -> tuple[Array, Array]:
    """t [b] in [t_min, t_max] and its weight [b]."""
    return times.quantile(process, times.draw(key, b))


def _independent(key: Key, b: int) -> Array:
    return jax.random.uniform(key, (b,))


def _lattice(key: Key, b: int) -> Array:
    return jnp.mod(jax.random.uniform(key) + jnp.arange(b) / b, 1)


def uniform() -> Times:
    """t uniform on [t_min, t_max]."""

    def quantile(process: Process, u: Array) -> tuple[Array, Array]:
        return process.t_min + u * (process.t_max - process.t_min), jnp.ones_like(u)

    return Times(_independent, quantile)


def discrete_uniform(steps: int = 1000) -> Times:
    """t uniform on the table {1/steps, 2/steps, ..., 1}, held inside [t_min, t_max] (Ho et al. 2020).

    Raises ValueError unless steps >= 1.
    """
    if steps < 1:
        raise ValueError(f"discrete_uniform needs steps >= 1, got {steps}")

    def quantile(process: Process, u: Array) -> tuple[Array, Array]:
        t = (jnp.minimum(jnp.floor(u * steps), steps - 1) + 1) / steps
        return jnp.clip(t, process.t_min, process.t_max), jnp.ones_like(u)

    return Times(_independent, quantile)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Times:
    """t = sigmoid(N(mean, std²)), held inside [t_min, t_max] (Esser et al. 2024). Biased on purpose.

    Raises ValueError unless std > 0.
    """
    if not std > 0:
        raise ValueError(f"logit_normal needs std > 0, got {std}")

    def quantile(process: Process, u: Array) -> tuple[Array, Array]:
        t = jax.nn.sigmoid(mean + std * ndtri(u))
        return jnp.clip(t, process.t_min, process.t_max), jnp.ones_like(u)

    return Times(_independent, quantile)


def edm_lognormal(mean: float = -1.2, std: float = 1.2) -> Times:
    """log(sigma/alpha) ~ N(mean, std²), held inside [t_min, t_max] (Karras et al. 2022, table 1). Biased on purpose.

    Raises ValueError unless std > 0.
    """
    if not std > 0:
        raise ValueError(f"edm_lognormal needs std > 0, got {std}")

    def quantile(process: Process, u: Array) -> tuple[Array, Array]:
        t = process.t_of_log_snr(-2 * (mean + std * ndtri(u)))
        return jnp.clip(t, process.t_min, process.t_max), jnp.ones_like(u)

    return Times(_independent, quantile)


def stratified(of: str = "uniform", **options) -> Times:
    """The distribution ``of`` (a name of `TIMES`, with its options) drawn with low discrepancy over the global batch.

    u_i = (u_0 + i/b) mod 1 with one uniform u_0 (Kingma et al. 2021): each u_i is uniform, together they
    cover [0, 1) evenly, so the loss varies less. Raises ValueError for an unknown name or for itself.
    """
    choices = [name for name in TIMES if name != "stratified"]
    if of not in choices:
        raise ValueError(f"stratified of {of!r}: choose from {', '.join(choices)}")
    return TIMES[of](**options)._replace(draw=_lattice)


TIMES = {
    "uniform": uniform,
    "discrete_uniform": discrete_uniform,
    "stratified": stratified,
    "logit_normal": logit_normal,
    "edm_lognormal": edm_lognormal,
}
