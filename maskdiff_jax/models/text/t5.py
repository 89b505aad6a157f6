"""T5's encoder (Raffel et al. 2020, arXiv 1910.10683), and that of its version 1.1, with gated MLPs (Shazeer 2020)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.models.layers import check_dtype, embedding_init, linear
from maskdiff_jax.models.text.base import Encoded, SelfAttention, TextNetwork, check_sizes, check_skip, from_module


class FeedForward(NamedTuple):
    """An MLP's activation, and whether what it gives is a gate on a second linear layer of the input."""

    activation: Callable[[jax.Array], jax.Array]
    gated: bool


FEED_FORWARDS = {
    "relu": FeedForward(nn.relu, gated=False),
    "gated-gelu": FeedForward(partial(nn.gelu, approximate=True), gated=True),
}


def t5(
    *,
    vocabulary: int = 32128,
    width: int = 4096,
    head_width: int = 64,
    hidden: int = 10240,
    depth: int = 24,
    heads: int = 64,
    buckets: int = 32,
    distance: int = 128,
    feed_forward: str = "gated-gelu",
    epsilon: float = 1e-6,
    skip: int = 0,
    dtype: str = "float32",
) -> TextNetwork:
    """T5's encoder; the defaults are those of version 1.1 XXL. It has no pooled vector.

    Tokens of the padding are computed too, from those that are not; what they hold means nothing.

    Args:
      vocabulary: number of ids.
      width, depth, heads, head_width: of the transformer; heads·head_width need not be the width.
      hidden: units of an MLP.
      buckets, distance: the number of relative positions that attention tells apart, and the offset from which on all
        are one; see `bucket`.
      feed_forward: 'relu' (version 1) or 'gated-gelu' (version 1.1, with the tanh approximation).
      epsilon: of the norms.
      skip: layers before the last at which the tokens are taken. 0: after the last, normalised. Those before the last
        are not normalised.
      dtype: of the arithmetic, 'float32' or 'bfloat16'; norms, softmax and sums over layers are float32.
    Raises ValueError for sizes below 1, buckets that are not a multiple of 4, a distance that they hold one by one, a
    skip beyond the layers, an unknown feed_forward or dtype.
    """
    check_dtype(dtype)
    check_sizes(vocabulary=vocabulary, width=width, head_width=head_width, hidden=hidden, depth=depth, heads=heads)
    check_skip(skip, depth)
    if buckets < 4 or buckets % 4:
        raise ValueError(f"buckets={buckets}: a multiple of 4, half of them for each direction and half of those exact")
    if distance <= buckets // 4:
        raise ValueError(f"distance={distance} must be above a quarter of buckets={buckets}")
    if feed_forward not in FEED_FORWARDS:
        raise ValueError(f"feed_forward={feed_forward!r}: choose from {', '.join(FEED_FORWARDS)}")
    module = T5(
        vocabulary, width, head_width, hidden, depth, heads, buckets, distance, feed_forward, epsilon, skip, dtype
    )
    return from_module(module, vocabulary, width)


class T5(nn.Module):
    """See `t5`."""

    vocabulary: int
    width: int
    head_width: int
    hidden: int
    depth: int
    heads: int
    buckets: int
    distance: int
    feed_forward: str
    epsilon: float
    skip: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Encoded:
        n = ids.shape[1]
        x = nn.Embed(self.vocabulary, self.width, embedding_init=embedding_init, name="token_embedding")(ids)
        places = np.arange(n)
        table = nn.Embed(self.buckets, self.heads, embedding_init=embedding_init, name="relative_position")
        offsets = table(bucket(places[None, :] - places[:, None], self.buckets, self.distance))
        offsets = jnp.moveaxis(offsets, -1, 0)[None]
        states = []
        for i in range(self.depth):
            layer = Layer(
                self.heads, self.head_width, self.hidden, self.feed_forward, self.epsilon, self.dtype, name=f"layer_{i}"
            )
            states.append(x := layer(x, mask[:, None, None, :], offsets))
        x = norm(self.epsilon, "final_norm")(x)  # with a skip, of parameters that are there and not used
        return Encoded(states[-1 - self.skip] if self.skip else x)


def bucket(offset: Int[np.ndarray, "*n"], buckets: int, distance: int) -> Int[np.ndarray, "*n"]:
    """The number, in 0..buckets-1, of the relative position of an offset (key - query) of any sign.

    Half of the buckets are for keys after the query. Of each half, the first half holds an offset of 0, 1, 2, ... each,
    and the rest grow geometrically up to ``distance``; the last holds all beyond (§2.1 of the paper, and its code).
    """
    half, exact = buckets // 2, buckets // 4
    size = np.abs(offset)
    growth = np.log(np.maximum(size, exact).astype(np.float32) / exact) / np.float32(np.log(distance / exact))
    far = exact + (growth * (half - exact)).astype(size.dtype)
    return half * (offset > 0) + np.where(size < exact, size, np.minimum(far, half - 1))


def norm(epsilon: float, name: str) -> nn.RMSNorm:
    """x / √(mean x² + ε)·scale, float32: a layer norm that does not take the mean away (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(epsilon, dtype=jnp.float32, name=name)


class Layer(nn.Module):
    """Attention and an MLP, each on a normalised input and added to it; no biases; the sums are float32."""

    heads: int
    head_width: int
    hidden: int
    feed_forward: str
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n w"], allowed: Bool[Array, "b 1 1 n"], offsets: Float[Array, "1 heads n n"]
    ) -> Float[Array, "b n w"]:
        attention = SelfAttention(self.heads, self.head_width, 1.0, False, self.dtype, name="attention")
        x = x + attention(norm(self.epsilon, "norm_1")(x).astype(self.dtype), allowed, offsets)
        project = partial(linear, dtype=self.dtype, bias=False)
        y = norm(self.epsilon, "norm_2")(x).astype(self.dtype)
        activation, gated = FEED_FORWARDS[self.feed_forward]
        h = activation(project(y, self.hidden, name="gate" if gated else "hidden"))
        if gated:
            h = h * project(y, self.hidden, name="gated")
        return x + project(h, x.shape[-1], name="out")
