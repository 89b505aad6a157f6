"""What the encoders of text share: their answer, their two pure functions, and attention with a mask and a bias."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models.layers import linear
from maskdiff_jax.types import Key, Params


class Encoded(NamedTuple):
    """tokens [b, n, width] and, where the encoder has one, the vector of the whole text, pooled [b, w]; float32."""

    tokens: jax.Array
    pooled: jax.Array | None = None


class TextNetwork(NamedTuple):
    """An encoder of text as two pure functions over a plain dict of arrays.

    ``init(key) -> params``; ``apply(params, ids [b, n] int32, mask [b, n] bool) -> Encoded``, where nothing attends to
    a token whose mask is False. ``width`` is that of the tokens, ``pooled_width`` that of the pooled vector or None,
    ``length`` the longest n, or None where there is no limit; ``vocabulary`` the number of ids.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, jax.Array, jax.Array], Encoded]
    vocabulary: int
    width: int
    pooled_width: int | None = None
    length: int | None = None


def from_module(
    module: nn.Module, vocabulary: int, width: int, pooled_width: int | None = None, length: int | None = None
) -> TextNetwork:
    """The `TextNetwork` of a Linen module without state, called as ``module(ids, mask) -> Encoded``."""

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))["params"]

    def apply(params: Params, ids: jax.Array, mask: jax.Array) -> Encoded:
        encoded: Any = module.apply({"params": params}, ids, mask)
        return encoded

    return TextNetwork(init, apply, vocabulary, width, pooled_width, length)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: a whole number of at least 1")


def check_skip(skip: int, depth: int) -> None:
    """Raise ValueError unless ``skip`` of ``depth`` layers can be left out."""
    if not 0 <= skip < depth:
        raise ValueError(f"skip={skip}: from 0 to {depth - 1} of the {depth} layers can be left out")


class SelfAttention(nn.Module):
    """Attention of ``heads`` heads of ``head_width`` each, with projections of their own for queries, keys and values.

    ``scale`` multiplies the logits. ``allowed`` is True where a query (third axis) may attend to a key (fourth);
    ``offsets`` are added to the logits. The softmax is float32.
    """

    heads: int
    head_width: int
    scale: float
    bias: bool
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        allowed: Bool[Array, "b 1 #n n"],
        offsets: Float[Array, "1 heads n n"] | None = None,
    ) -> Float[Array, "b n w"]:
        b, n, width = x.shape
        inner = self.heads * self.head_width
        query, key, value = (
            linear(x, inner, dtype=self.dtype, bias=self.bias, name=name).reshape(b, n, self.heads, self.head_width)
            for name in ("query", "key", "value")
        )
        h = jax.nn.dot_product_attention(query, key, value, offsets, allowed, scale=self.scale)
        return linear(h.reshape(b, n, inner), width, dtype=self.dtype, bias=self.bias, name="out")
