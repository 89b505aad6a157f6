"""Networks that look at images, for evaluation: from pixels to named features."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array, Key, Params


class Extractor(NamedTuple):
    """A network as two pure functions over a plain dict of arrays.

    ``init(key) -> params``; ``apply(params, images [b, h, w, c]) -> {name: [b, ...]}``, all float32. The features are
    under "pool", [b, ``dims``], the scores of the classes under "logits".
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], dict[str, Array]]
    dims: int


def from_module(module: nn.Module, image_shape: tuple[int, int, int], dims: int) -> Extractor:
    """The `Extractor` of a Linen module without state, called as ``module(images) -> {name: array}``."""

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, *image_shape)))["params"]

    def apply(params: Params, images: Array) -> dict[str, jax.Array]:
        features: dict[str, jax.Array] = module.apply({"params": params}, images)  # pyright: ignore[reportAssignmentType]
        return features

    return Extractor(init, apply, dims)
