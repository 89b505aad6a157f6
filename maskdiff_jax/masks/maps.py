"""Both kinds of mask as maps over the image, to look at."""

import jax.numpy as jnp

from maskdiff_jax import rng, tokens
from maskdiff_jax.types import Array, Key, Segments, Shape, Supervision, Visibility


def mask_maps(
    visibility: Visibility, supervision: Supervision, segments: Segments | None, shape: Shape, keys: Key
) -> tuple[Array, Array]:
    """Which elements of images of ``shape`` (h, w, c) enter the network, and which carry loss: boolean [b, h, w, c].

    One draw for each of ``keys`` [b]; ``segments`` is ``Model.tokens``. Where a token is hidden the network does not
    answer for it, and supervision is drawn on the others only, as in training.
    """
    b = keys.shape[0]
    if segments is None:
        return jnp.ones((b, *shape), bool), jnp.broadcast_to(supervision.sample(keys, shape), (b, *shape))

    def maps(i: int, patches: Array) -> tuple[Array, Array]:
        own, (n, *unit) = rng.key_for(keys, f"segment {i}"), patches.shape[1:]
        grid = tokens.segments(segments)[i].grid
        ids = visibility.sample(rng.key_for(own, "visibility"), grid)
        answered = (ids.shape[1], *unit)
        kept = jnp.broadcast_to(supervision.sample(rng.key_for(own, "supervision"), answered), (b, *answered))
        return tokens.scatter(jnp.ones(kept.shape), ids, n), tokens.scatter(kept.astype(jnp.float32), ids, n)

    parts = tokens.cut(jnp.zeros((b, *shape)), segments)
    visible, kept = zip(*(maps(i, part) for i, part in enumerate(parts)), strict=True)
    return tokens.assemble(visible, segments) > 0, tokens.assemble(kept, segments) > 0
