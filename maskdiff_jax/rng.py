"""Where random keys come from: the only place that derives them.

There is no generator state. A training step's key is ``fold_in(root, step)``; inside it every use has a name, and every
image its own key, so a draw depends on (seed, step, name, index of the image) and on nothing else: not on the number of
devices, hosts or micro-batches.
"""

import zlib

import jax
import jax.numpy as jnp

from maskdiff_jax.types import Array, Key, Shape


def key_for(key: Key, name: str) -> Key:
    """The key of the use called ``name``; ``key`` is one key or an array of them [b]."""
    tag = zlib.crc32(name.encode())
    fold = lambda k: jax.random.fold_in(k, tag)  # noqa: E731
    return jax.vmap(fold)(key) if key.ndim else fold(key)


def per_image(key: Key, ids: Array | int) -> Key:
    """One key per image [b]: ``ids`` are the images' global numbers [b], or b for 0..b-1."""
    ids = jnp.arange(ids, dtype=jnp.uint32) if isinstance(ids, int) else ids
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def normal(keys: Key, shape: Shape) -> Array:
    """Standard normal noise [b, *shape], float32, image i drawn from ``keys[i]`` alone."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
