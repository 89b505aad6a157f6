"""The spatial transformer of the latent diffusion U-Net (Rombach et al. 2022, arXiv 2112.10752, §3.3), NHWC.

Kernels start uniform in ±1/√fan-in, as in the published code, and biases at 0. ``dtype`` is that of the arithmetic;
norms and softmax compute in float32. ``head_channels`` = 0 is one head of all the channels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models.layers import linear, zeros
from maskdiff_jax.models.unet_layers import fan_in_uniform, group_norm


class SourceAttention(nn.Module):
    """Attention of the tokens ``x`` to those of ``source``, which may be ``x``.

    Queries, keys and values have no bias. ``mask`` is False at tokens of the source that nobody attends to; an image
    for which that is all of them gets the bias of the output alone. A source of one token is added as it is
    projected, whatever the queries: those then have no gradient.
    """

    head_channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k w"], source: Float[Array, "b m s"], mask: Bool[Array, "b m"] | None = None
    ) -> Float[Array, "b k w"]:
        b, _, width = x.shape

        def project(x: Float[Array, "b n i"], n: int, name: str) -> list[Float[Array, "b n heads hc"]]:
            dense = nn.Dense(n * width, use_bias=False, dtype=self.dtype, kernel_init=fan_in_uniform, name=name)
            parts = dense(x.reshape(-1, x.shape[-1])).reshape(b, -1, n, width // channels, channels)
            return [parts[:, :, i] for i in range(n)]

        channels = self.head_channels or width
        (query,), (key, value) = project(x, 1, "query"), project(source, 2, "key_value")
        seen = None if mask is None else mask[:, None, None, :]
        h = jax.nn.dot_product_attention(query, key, value, mask=seen).reshape(x.shape)
        if mask is not None:  # a softmax over masked tokens alone is uniform
            h = jnp.where(mask.any(axis=1)[:, None, None], h, 0)
        return linear(h, width, dtype=self.dtype, kernel_init=fan_in_uniform, name="out")


class GatedMlp(nn.Module):
    """Two layers, the hidden units of the first gated by the GELU of as many others (GEGLU, Shazeer 2020)."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b k w"]) -> Float[Array, "b k w"]:
        h = linear(x, 2 * self.hidden, dtype=self.dtype, kernel_init=fan_in_uniform, name="hidden")
        h, gate = jnp.split(h, 2, axis=-1)
        h = h * nn.gelu(gate, approximate=False)
        return linear(h, x.shape[-1], dtype=self.dtype, kernel_init=fan_in_uniform, name="out")


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context where there is one, and a gated MLP, each after a layer norm."""

    head_channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b k w"],
        context: Float[Array, "b m d"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b k w"]:
        def norm(x: Float[Array, "b k w"], name: str) -> Float[Array, "b k w"]:
            return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)(x).astype(self.dtype)

        h = norm(x, "norm")
        x = x + SourceAttention(self.head_channels, self.dtype, name="attention")(h, h)
        if context is not None:
            h = norm(x, "cross_norm")
            x = x + SourceAttention(self.head_channels, self.dtype, name="cross_attention")(h, context, mask)
        return x + GatedMlp(4 * x.shape[-1], self.dtype, name="mlp")(norm(x, "mlp_norm"))


class SpatialTransformer(nn.Module):
    """``depth`` transformer blocks over all positions of the image, between two linear layers; the last starts at 0."""

    depth: int
    head_channels: int
    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b m d"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b h w c"]:
        b, height, width, channels = x.shape
        h = group_norm(x.reshape(b, height * width, channels), self.groups, name="norm", epsilon=1e-6)
        h = linear(h, channels, dtype=self.dtype, kernel_init=fan_in_uniform, name="in")
        for i in range(self.depth):
            h = TransformerBlock(self.head_channels, self.dtype, name=f"block_{i}")(h, context, mask)
        return x + linear(h, channels, dtype=self.dtype, kernel_init=zeros, name="out").reshape(x.shape)
