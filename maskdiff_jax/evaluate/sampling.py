"""Many samples for an evaluation, in batches of one size."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.types import Array, Cond, Key, Params

UNCONDITIONAL = Cond()

# (params, keys [b], conditions with leading axis b) -> images [b, h, w, c]
Sample = Callable[[Params, Key, Cond], Array]


def make_generate(
    sample: Sample,
    *,
    batch_size: int = 250,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> Callable[..., np.ndarray]:
    """``generate(params, count, cond=Cond(), seed=0, progress=None, first=0) -> images [count, h, w, c]`` in [-1, 1].

    They are the images ``first``, ``first`` + 1, … of all those that a seed stands for. Image i is drawn from the key
    of (seed, i) and its entry of ``cond``, so it does not depend on ``batch_size`` (but for rounding), ``first`` or
    ``count``. The last batch is filled up and cut: one compilation serves. ``place`` puts a batch (a pytree with
    leading axis batch_size) on the devices, ``collect`` fetches images from them; ``progress(done)`` is called after
    each batch.
    ``generate`` raises ValueError where a condition does not have ``count`` entries.
    """

    @jax.jit
    def batch(params: Params, ids: Array, cond: Cond, seed: Array) -> Array:
        return sample(params, rng.per_image(rng.key_for(jax.random.key(seed), "generate"), ids), cond)

    def generate(
        params: Params,
        count: int,
        cond: Cond = UNCONDITIONAL,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
    ) -> np.ndarray:
        lengths = {len(leaf) for leaf in jax.tree.leaves(cond)}
        if count < 1 or lengths - {count}:
            raise ValueError(f"{count} samples need as many conditions, got {sorted(lengths)}")
        cond = jax.tree.map(np.asarray, cond)
        parts = []
        for start in range(0, count, batch_size):
            ids = np.arange(start, start + batch_size) % count  # wraps around in the last batch
            chunk = jax.tree.map(lambda leaf, ids=ids: leaf[ids], cond)
            parts.append(collect(batch(params, *place(((first + ids).astype(np.uint32), chunk)), np.uint32(seed))))
            if progress:
                progress(min(start + batch_size, count))
        return np.clip(np.concatenate(parts)[:count], -1, 1)

    return generate


def balanced_labels(count: int, classes: int) -> np.ndarray:
    """Labels 0, 1, ..., classes - 1, 0, 1, ... [count] int32: every class equally often, to within one."""
    return np.arange(count, dtype=np.int32) % classes
