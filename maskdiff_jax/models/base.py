"""From a Flax module to the library's `Model`: two pure functions over a plain dict of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array, Cond, Key, Model, Output, Params, Segments


def from_linen(
    module: nn.Module, image_shape: tuple[int, int, int], tokens: Segments | None = None, cond: Cond | None = None
) -> Model:
    """The `Model` of a Linen module called as ``module(x, level, cond, visible=..., train=...) -> Output``.

    ``init`` traces the module on zeros: one image of ``image_shape`` (h, w, c), level 0 and ``cond``, an example of the
    conditions for a batch of one (by default a label 0 and nothing else). All state must live in the collection
    'params'. The key given to ``apply`` becomes the module's 'dropout' generator.
    """

    def init(key: Key) -> Params:
        example = Cond(label=jnp.zeros(1, jnp.int32)) if cond is None else cond
        return module.init(key, jnp.zeros((1, *image_shape)), jnp.zeros(1), example)["params"]

    def apply(
        params: Params,
        x: Array,
        level: Array,
        cond: Cond,
        *,
        visible: Array | tuple[Array, ...] | None = None,
        train: bool = False,
        key: Key | None = None,
    ) -> Output:
        rngs: dict[str, jax.Array] = {} if key is None else {"dropout": key}
        out: Any = module.apply({"params": params}, x, level, cond, visible=visible, train=train, rngs=rngs)
        return out

    return Model(init, apply, tokens)
