"""The dense control of a sparse run: its batch is cut until its gradient is as noisy.

The estimator: at the parameters of the dense run in the middle of its training (seed 0, averaged weights),
the variance of the gradient of a whole training step, summed over parameters, between ``draws`` steps whose images are
drawn with replacement and whose times, noise, dropped labels and masks are those of training. So stratified times
count as they are used. Variances of both supervisions use the same images, times and noise. The variance falls as
1/batch: B' = B·V_dense/V_sparse, which is `masks.noise_matched_batch` with V_mask = V_sparse - V_dense. It is rounded
to a multiple of the devices. Noise changes in the course of training: it is matched there, and the figures of the
matched batch are measured again at B' and stated beside.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import inference
from maskdiff_jax.build import Experiment
from maskdiff_jax.masks.theory import noise_matched_batch
from maskdiff_jax.types import Array, Batch, Key, Params

Loss = Callable[[Params, Batch, Key], Array]


class Match(NamedTuple):
    """The cut ``batch``, and variances of one step's gradient: dense and sparse at the full batch, dense at the cut."""

    batch: int
    exact: float
    dense: float
    sparse: float
    reached: float
    step: int


def gradient_variance(loss: Loss, params: Params, data: Batch, ids: np.ndarray, seed: int = 0) -> float:
    """The unbiased variance of the gradient of ``loss``, summed over parameters, between the batches ``ids`` [n, b].

    ``data`` holds images and conditions of the training set, ``ids`` which of them are in each batch. Step i has the
    key of (seed, i). Raises ValueError for fewer than 2 batches.
    """
    n = len(ids)
    if n < 2:
        raise ValueError(f"a variance needs at least 2 batches, got {n}")

    @jax.jit
    def gradient(params: Params, batch: Batch, key: Key) -> tuple[Params, Array]:
        found = jax.grad(lambda p: loss(p, batch, key))(params)
        return found, jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(found)]))

    total, squares = None, 0.0
    for i, chosen in enumerate(ids):
        batch = jax.tree.map(lambda leaf, chosen=chosen: np.asarray(leaf)[chosen], data)
        found, square = gradient(params, batch, jax.random.fold_in(jax.random.key(seed), i))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        squares += float(square)
    mean = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(total)) / n
    return max((squares - mean) / (n - 1), 0.0)


def cut(batch: int, dense: float, sparse: float, devices: int = 1) -> tuple[int, float]:
    """The matched batch, a multiple of ``devices``, and before rounding. A sparse gradient that is less noisy than the
    dense one, which is chance, leaves the batch as it is."""
    exact = float(noise_matched_batch(batch, dense, max(sparse - dense, 0.0)))
    return min(batch, max(1, round(exact / devices)) * devices), exact


def matched_batch(dense: Experiment, sparse: Experiment, params: Params, step: int, draws: int) -> Match:
    """The batch at which ``dense`` is as noisy as ``sparse`` at ``params``. Both train on the same data."""
    data, size = inference.read(dense, dense.dataset.train), dense.config.batch
    random = np.random.Generator(np.random.Philox(key=1))
    ids = random.integers(len(dense.dataset.train), size=(draws, size))
    noisy, calm = ((lambda p, b, k, e=e: e.objective.loss(p, b, k)[0]) for e in (sparse, dense))
    v_sparse, v_dense = (gradient_variance(loss, params, data, ids) for loss in (noisy, calm))
    batch, exact = cut(size, v_dense, v_sparse, devices=jax.device_count())
    reached = gradient_variance(calm, params, data, ids[:, :batch], seed=1)
    return Match(batch, exact, v_dense, v_sparse, reached, step)
