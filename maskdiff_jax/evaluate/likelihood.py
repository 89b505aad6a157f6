"""Bits per dimension: the variational upper bound on -log2 p(x) / dim of images on 256 grey levels."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.inputs import default
from maskdiff_jax.diffusion.posterior import check_variance
from maskdiff_jax.diffusion.prediction import like
from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.diffusion.vlb import discretised_gaussian_nll, prior_nats, step_nats, table_length
from maskdiff_jax.types import Array, Batch, Denoised, Denoiser, Inputs, Key, Model, Params, Phase, Prediction, Process

BitsPerDim = Callable[[Params, Batch, Key], Array]
CONTINUOUS_STEPS = 128


def make_bits_per_dim(
    model: Model,
    process: Process,
    prediction: Prediction,
    inputs: Inputs | None = None,
    *,
    variance: str = "small",
    steps: int | None = None,
    t_first: float | None = None,
    clip: tuple[float, float] | None = (-1.0, 1.0),
    phase: Phase | None = None,
) -> BitsPerDim:
    """``measure(params, batch, keys [b]) -> bits/dim [b]``, jitted; its noise depends on an image's key alone.

    The sum of three costs, for image-space models (no codec): the prior, KL(q(x_{t_max} | x) ‖ N(0, sigma(t_max)²));
    the steps; and the decoder, which gives the mass on the grey level.
    On a discrete process the steps are the KLs of its table with ``variance`` 'small', 'large' or 'learned' (Ho et al.
    2020; Nichol & Dhariwal 2021), the decoder the network's at t = 1/T. On a continuous one the steps are
    ½ ∫ ‖eps - eps_hat‖² d(log SNR), where all variances agree, and the decoder is N(x_t/alpha, (sigma/alpha)²) at
    ``t_first`` (Kingma et al. 2021, eqs. 10-14).

    Args:
      steps: network evaluations for the steps of one image, drawn with the density of log SNR, stratified: an unbiased
        estimate. None: all T - 1 of a table, without choice, or 128.
      t_first: where the bound of a continuous process starts, t_min where None. Every start gives a bound. A network
        that does not resolve single grey levels pays log2((2/255)·alpha/sigma) - 2.05 bits where sigma/alpha is far
        below their distance; a larger start, log SNR about 9, spares it that.
      clip: range in which the denoised image is held, as Ho et al. evaluate; it can only lower the squared errors.

    Raises ValueError for a value outside these and, when traced, for 'learned' with a network that has no variance.
    """
    check_variance("bits_per_dim", process, variance)
    table = process.steps
    if t_first is not None and (table is not None or not process.t_min <= t_first < process.t_max):
        raise ValueError(
            f"bits_per_dim: t_first={t_first} is for continuous processes, in [{process.t_min:g}, {process.t_max:g})"
        )
    if steps is not None and not 1 <= steps <= (math.inf if table is None else table - 1):
        most = "" if table is None else f" and at most {table - 1}, the steps between entries of the table"
        raise ValueError(f"bits_per_dim: steps must be at least 1{most}, got {steps}")

    @jax.jit
    def measure(params: Params, batch: Batch, keys: Key) -> Array:
        denoiser = make_denoiser(model, params, process, prediction, inputs or default(), clip, phase)
        keys = rng.key_for(keys, "likelihood")
        if table is None:
            nats = _continuous_bound(denoiser, process, batch, keys, steps, t_first or process.t_min)
        else:
            nats = _table_bound(denoiser, process, batch, keys, steps, variance)
        return (_per_image(prior_nats(process, batch.image)) + nats) / math.log(2)

    return measure


def mean_bits_per_dim(
    measure: BitsPerDim,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 256,
    seed: int = 0,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> float:
    """The mean over all images of ``data``, in batches of ``batch_size``, the last one filled up and cut.

    Image i has the noise of (seed, i): the result does not depend on the size (but for rounding). ``place`` puts a
    batch (a pytree with leading axis batch_size) on the devices, ``collect`` fetches the results.
    """
    keys_of = jax.jit(lambda ids: rng.per_image(jax.random.key(seed), ids))
    n, parts = len(data.image), []
    data = jax.tree.map(np.asarray, data)
    for start in range(0, n, batch_size):
        ids = np.arange(start, start + batch_size) % n  # wraps around in the last batch
        chunk = jax.tree.map(lambda leaf, ids=ids: leaf[ids], data)
        batch, numbers = place((chunk, ids.astype(np.uint32)))
        parts.append(collect(measure(params, batch, keys_of(numbers))))
    return float(np.concatenate(parts)[:n].astype(np.float64).mean())


def _table_bound(
    denoiser: Denoiser, process: Process, batch: Batch, keys: Key, steps: int | None, variance: str
) -> Array:
    """Decoder and steps [b], nats per dim: all entries of the table, or the first and ``steps`` others drawn."""
    b, length = len(batch.image), table_length(process)
    t = jnp.arange(1, length + 1) / length
    if steps is None:
        times, weight = jnp.broadcast_to(t[:, None], (length, b)), jnp.ones((length, b))
    else:
        log_snrs = log_snr(coeffs(process, t))
        span = log_snrs[0] - log_snrs[-1]
        drawn = jnp.searchsorted(-log_snrs, span * _strata(keys, steps) - log_snrs[0])
        drawn = jnp.clip(drawn, 1, length - 1)  # entry i stands for the log SNR between entries i - 1 and i
        density = (log_snrs[drawn - 1] - log_snrs[drawn]) / span
        times = jnp.concatenate([jnp.full((1, b), t[0]), t[drawn]])
        weight = jnp.concatenate([jnp.ones((1, b)), 1 / (steps * density)])

    def cost(t: Array, x: Array, estimate: Denoised) -> Array:
        return step_nats(process, t, x, estimate.x, variance, estimate.variance)

    return _sum(denoiser, process, batch, keys, times, weight, cost)


def _continuous_bound(
    denoiser: Denoiser, process: Process, batch: Batch, keys: Key, steps: int | None, t_first: float
) -> Array:
    """Decoder and integral [b], nats per dim; the integral over log SNR by stratified draws."""
    first, last = coeffs(process, t_first), coeffs(process, process.t_max)
    span = log_snr(first) - log_snr(last)
    count = steps or CONTINUOUS_STEPS
    times = jnp.clip(process.t_of_log_snr(log_snr(first) - span * _strata(keys, count)), t_first, process.t_max)

    def cost(t: Array, x: Array, estimate: Denoised) -> Array:
        c = coeffs(process, t)  # ‖eps - eps_hat‖² = SNR ‖x - x_hat‖²
        return jnp.square(like(c.alpha / c.sigma, x) * (x - estimate.x)) / 2

    x = batch.image
    spread = first.sigma / first.alpha
    seen = x + spread * rng.normal(rng.key_for(keys, "decoder"), x.shape[1:])
    decoder = _per_image(discretised_gaussian_nll(x, seen, 2 * jnp.log(spread)))
    return decoder + _sum(denoiser, process, batch, keys, times, jnp.full(times.shape, span / count), cost)


def _sum(
    denoiser: Denoiser,
    process: Process,
    batch: Batch,
    keys: Key,
    times: Array,
    weight: Array,
    cost: Callable[[Array, Array, Denoised], Array],
) -> Array:
    """Σ_k weight[k]·(mean over elements of the cost at times[k]) [b]; times and weight [k, b], fresh noise for each."""
    x, noise_keys = batch.image, rng.key_for(keys, "noise")

    def add(nats: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        k, t, weight = now
        c = coeffs(process, t)
        eps = rng.normal(jax.vmap(jax.random.fold_in, in_axes=(0, None))(noise_keys, k), x.shape[1:])
        estimate = denoiser(like(c.alpha, x) * x + like(c.sigma, x) * eps, t, batch.cond)
        return nats + weight * _per_image(cost(t, x, estimate)), None

    return jax.lax.scan(add, jnp.zeros(len(x)), (jnp.arange(len(times)), times, weight))[0]


def _strata(keys: Key, count: int) -> Array:
    """[count, b] uniform numbers, row k in the k-th of ``count`` equal parts of [0, 1)."""
    u = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(rng.key_for(keys, "times"))
    return (jnp.arange(count)[:, None] + u.T) / count


def _per_image(elements: Array) -> Array:
    return jnp.mean(elements, axis=range(1, elements.ndim))
