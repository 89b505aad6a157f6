"""The dense held-out loss at fixed (t, eps): the one loss by which sparse, debiased and masked runs compare."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.diffusion.objective import Draws, Objective
from maskdiff_jax.diffusion.times import uniform
from maskdiff_jax.types import Array, Batch, Params, Process, Times

Heldout = Callable[[Params, Batch], dict[str, float]]


def make_heldout(
    objective: Objective,
    process: Process,
    *,
    levels: int = 8,
    batch_size: int = 256,
    seed: int = 0,
    times: Times | None = None,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> Heldout:
    """``evaluate(params, data) -> {"loss": ..., "level_00": ..., "level_01": ...}``, means over all images of ``data``.

    ``objective`` should be dense (full supervision, every token visible). Its weighting applies; nothing is dropped.
    Each of the n images is seen at one t and one noise, both a function of (seed, n, number of the image) alone: t is
    the quantile of ``times`` (default: uniform on [t_min, t_max]) at (rank + 0.5)/n, with ranks a fixed permutation, so
    that data sorted by class do not tie classes to noise levels. Level j holds the ranks in [j, j + 1)·n/levels;
    `level_edges` tells its range of t.

    Images go through in batches of ``batch_size``, the last one filled up and cut, so one compilation serves and the
    result does not depend on the size (but for rounding). ``place`` puts a batch (a pytree with leading axis
    batch_size) on the devices, ``collect`` fetches the losses. Raises ValueError for fewer images than levels.
    """
    times = times or uniform()

    @jax.jit
    def losses(params: Params, batch: Batch, u: Array, ids: Array) -> Array:
        t, weight = times.quantile(process, u)
        keys = rng.per_image(rng.key_for(jax.random.key(seed), "heldout"), ids)
        return objective.per_image(params, batch, Draws(t, weight, keys, batch.cond), train=False)[0]

    def evaluate(params: Params, data: Batch) -> dict[str, float]:
        n = len(data.image)
        if n < levels:
            raise ValueError(f"{levels} noise levels need at least as many held-out images, got {n}")
        data = jax.tree.map(np.asarray, data)
        rank = np.random.default_rng(seed).permutation(n)
        parts = []
        for start in range(0, n, batch_size):
            ids = np.arange(start, start + batch_size) % n  # wraps around in the last batch
            chunk = jax.tree.map(lambda leaf, ids=ids: leaf[ids], data)
            u = ((rank[ids] + 0.5) / n).astype(np.float32)
            parts.append(losses(params, *place((chunk, u, ids.astype(np.uint32)))))
        loss = np.concatenate([collect(part) for part in parts])[:n].astype(np.float64)
        level = rank * levels // n
        means = {f"level_{j:02d}": float(loss[level == j].mean()) for j in range(levels)}
        return {"loss": float(loss.mean()), **means}

    return evaluate


def level_edges(process: Process, levels: int = 8, times: Times | None = None) -> list[float]:
    """The levels + 1 values of t between which `make_heldout` bins, ascending."""
    edges, _ = (times or uniform()).quantile(process, jnp.linspace(0, 1, levels + 1))
    return np.asarray(edges).tolist()
