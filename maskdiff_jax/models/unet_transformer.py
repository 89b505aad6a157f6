"""The spatial transformer of the latent diffusion U-Net (Rombach et al. 2022, arXiv 2112.10752, §3.3), NHWC.

Kernels start uniform in ±1/√fan-in, as in the published code, and biases at 0. ``dtype`` is that of the arithmetic;
norms and softmax compute in float32. ``head_channels`` = 0 is one head of all the channels.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models.attention import CrossAttention
from maskdiff_jax.models.layers import linear, zeros
from maskdiff_jax.models.unet_layers import fan_in_uniform, group_norm

# As published; the source may be the tokens themselves.
SourceAttention = partial(CrossAttention, bias=False, kernel_init=fan_in_uniform, out_init=fan_in_uniform)


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

        heads = x.shape[-1] // (self.head_channels or x.shape[-1])
        h = norm(x, "norm")
        x = x + SourceAttention(heads, self.dtype, name="attention")(h, h)
        if context is not None:
            h = norm(x, "cross_norm")
            x = x + SourceAttention(heads, self.dtype, name="cross_attention")(h, context, mask)
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
