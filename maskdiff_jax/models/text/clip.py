"""CLIP's encoder of text: a causal transformer (Radford et al. 2021, arXiv 2103.00020, §2.4)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.models.layers import check_dtype, embedding_init, linear
from maskdiff_jax.models.text.base import Encoded, SelfAttention, TextNetwork, check_sizes, check_skip, from_module


def quick_gelu(x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
    """x·sigmoid(1.702 x), the approximation of the GELU that CLIP was trained with (Hendrycks & Gimpel 2016, §2)."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
    """x·Φ(x)."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}

LEGACY_END = 2  # the end token in configurations that name a wrong one; the right one is the largest id of a text


def clip(
    *,
    vocabulary: int = 49408,
    width: int = 768,
    hidden: int = 3072,
    depth: int = 12,
    heads: int = 12,
    length: int = 77,
    end: int = 49407,
    projection: int | None = None,
    activation: str = "quick_gelu",
    epsilon: float = 1e-5,
    skip: int = 0,
    dtype: str = "float32",
) -> TextNetwork:
    """CLIP's encoder of text; the defaults are those of ViT-L/14.

    The pooled vector is the last layer's token, normalised, at the first ``end`` of a text. It does not depend on what
    follows that token, and neither do the tokens before: with padding at the end, the mask changes nothing but tokens
    of the padding. Stable Diffusion looks at those too; for its tokens give a mask that is True everywhere.

    Args:
      vocabulary: number of ids.
      width, hidden, depth, heads: of the transformer; hidden units of its MLPs.
      length: number of learned positions.
      end: id of the token that ends a text; 2 stands for the largest id of the text, as in the published
        configurations from before the correction of that entry.
      projection: width of the linear layer on the pooled vector; None is no such layer.
      activation: 'quick_gelu' (OpenAI's weights) or 'gelu' (OpenCLIP's).
      epsilon: of the layer norms.
      skip: layers before the last at which the tokens are taken. 0: after the last, normalised; 1: SDXL's penultimate
        (Podell et al. 2023, §2.1). Those before the last are not normalised.
      dtype: of the arithmetic, 'float32' or 'bfloat16'; norms, softmax and sums over layers are float32.
    Raises ValueError for sizes below 1, heads that do not divide the width, a skip beyond the layers, an unknown
    activation or dtype; when called, for a text longer than ``length``.
    """
    check_dtype(dtype)
    check_sizes(vocabulary=vocabulary, width=width, hidden=hidden, depth=depth, heads=heads, length=length)
    if projection is not None:
        check_sizes(projection=projection)
    if width % heads:
        raise ValueError(f"heads={heads} must divide width={width}")
    check_skip(skip, depth)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: choose from {', '.join(ACTIVATIONS)}")
    module = Clip(vocabulary, width, hidden, depth, heads, length, end, projection, activation, epsilon, skip, dtype)
    return from_module(module, vocabulary, width, projection or width, length)


class Clip(nn.Module):
    """See `clip`."""

    vocabulary: int
    width: int
    hidden: int
    depth: int
    heads: int
    length: int
    end: int
    projection: int | None
    activation: str
    epsilon: float
    skip: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Encoded:
        n = ids.shape[1]
        if n > self.length:
            raise ValueError(f"a text of {n} tokens: this encoder has {self.length} positions")
        places = nn.Embed(self.length, self.width, embedding_init=embedding_init, name="position_embedding")
        x = nn.Embed(self.vocabulary, self.width, embedding_init=embedding_init, name="token_embedding")(ids)
        x = x + places(jnp.arange(n))[None]
        allowed = jnp.tril(jnp.ones((n, n), bool))[None, None] & mask[:, None, None, :]
        states = []
        for i in range(self.depth):
            layer = Layer(self.hidden, self.heads, self.activation, self.epsilon, self.dtype, name=f"layer_{i}")
            states.append(x := layer(x, allowed))
        x = norm(self.epsilon, "final_norm")(x)
        pooled = jnp.take_along_axis(x, ends(ids, self.end)[:, None, None], axis=1)[:, 0]
        if self.projection is not None:
            pooled = linear(pooled, self.projection, bias=False, name="projection")
        return Encoded(states[-1 - self.skip] if self.skip else x, pooled)


def ends(ids: Int[Array, "b n"], end: int) -> Int[Array, " b"]:
    """The place of the first ``end`` in each text, 0 where there is none; with `LEGACY_END` of the first largest id."""
    return jnp.argmax(ids if end == LEGACY_END else ids == end, axis=1)


def norm(epsilon: float, name: str) -> nn.LayerNorm:
    """A float32 layer norm whose variance is not a difference of two large numbers."""
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class Layer(nn.Module):
    """Attention and an MLP, each on a normalised input and added to it; the sums are float32."""

    hidden: int
    heads: int
    activation: str
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"], allowed: Bool[Array, "b 1 n n"]) -> Float[Array, "b n w"]:
        width = x.shape[-1]
        head_width = width // self.heads
        attention = SelfAttention(self.heads, head_width, head_width**-0.5, True, self.dtype, name="attention")
        x = x + attention(norm(self.epsilon, "norm_1")(x).astype(self.dtype), allowed)
        h = norm(self.epsilon, "norm_2")(x).astype(self.dtype)
        h = ACTIVATIONS[self.activation](linear(h, self.hidden, dtype=self.dtype, name="hidden"))
        return x + linear(h, width, dtype=self.dtype, name="out")
