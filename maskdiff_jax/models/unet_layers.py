"""The layers of the ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233, §3): residual and attention blocks, NHWC.

Options give the residual block of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

Kernels start uniform in ±1/√fan-in, as in the published code, and biases at 0; the last layer of each block starts at
0, so that a fresh block is its skip connection. ``dtype`` is that of the arithmetic; norms compute in float32.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models.layers import linear, zeros


def fan_in_uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform in ±1/√fan-in, the fan being all axes but the last.

    Drawn flat: a CPU compiles ten times as long for a draw of four axes, and each kernel's shape is compiled anew.
    """
    limit = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


def conv(
    x: Float[Array, "b h w i"],
    features: int,
    *,
    name: str,
    dtype: DTypeLike = "float32",
    kernel_init: Initializer = fan_in_uniform,
    stride: int = 1,
) -> Float[Array, "b h//{stride} w//{stride} o"]:
    """A 3×3 convolution centred on every ``stride``-th pixel from the first, inside a module's compact method.

    ``stride`` must divide the sides; pixels beyond the image are 0.
    """
    module = nn.Conv(features, (3, 3), stride, padding=1, dtype=dtype, kernel_init=kernel_init, name=name)
    return module(x)


def group_norm(x: Float[Array, "*b c"], groups: int, *, name: str, epsilon: float = 1e-5) -> Float[Array, "*b c"]:
    """Normalise each group of channels over all positions of an image, then a learned scale and shift; float32."""
    return nn.GroupNorm(groups, epsilon=epsilon, dtype=jnp.float32, name=name)(x)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """The mean of each 2×2 square."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Each pixel as a 2×2 square."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


RESAMPLE = {"keep": lambda x: x, "down": halve, "up": double}


class ResBlock(nn.Module):
    """Norm-SiLU-convolution twice; the condition scales and shifts the second norm.

    Without ``scale_shift`` it is added before that norm instead.

    ``resample``: 'down' or 'up' halves or doubles the image between the first SiLU and its convolution, and on the skip
    connection; 'keep' does neither. The skip connection is linear in the channels where their number changes.
    """

    features: int
    groups: int
    dtype: DTypeLike
    resample: str = "keep"
    scale_shift: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], c: Float[Array, "b e"]) -> Float[Array, "b h2 w2 o"]:
        resample = RESAMPLE[self.resample]
        h = nn.silu(group_norm(x, self.groups, name="norm")).astype(self.dtype)
        h = conv(resample(h), self.features, dtype=self.dtype, name="conv")

        features = self.features * (2 if self.scale_shift else 1)
        modulation = linear(nn.silu(c), features, kernel_init=fan_in_uniform, name="modulation")[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            h = group_norm(h, self.groups, name="out_norm") * (1 + scale) + shift
        else:
            h = group_norm(h + modulation, self.groups, name="out_norm")
        h = conv(nn.silu(h).astype(self.dtype), self.features, dtype=self.dtype, kernel_init=zeros, name="out_conv")

        x = resample(x)
        if x.shape[-1] != self.features:
            x = linear(x, self.features, dtype=self.dtype, kernel_init=fan_in_uniform, name="skip")
        return x + h


class AttentionBlock(nn.Module):
    """Attention among all positions of the image, and to the tokens of ``context`` [b, m, d] where there are any.

    Cross-attention is by joint keys: each block projects the context to keys and values of its own and appends them to
    those of the image, under one softmax (GLIDE, Nichol et al. 2021, arXiv 2112.10741, §4; Imagen calls it
    cross-attention). Without a context there are no parameters for it. ``head_channels`` = 0 is one head of all the
    channels.
    """

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
        head_channels = self.head_channels or channels

        def project(x: Float[Array, "b k i"], n: int, name: str) -> Float[Array, "b k n heads hc"]:
            out = linear(x, n * channels, dtype=self.dtype, kernel_init=fan_in_uniform, name=name)
            return out.reshape(b, -1, n, channels // head_channels, head_channels)

        h = group_norm(x.reshape(b, height * width, channels), self.groups, name="norm")
        qkv = project(h, 3, "qkv")
        query, keys_values = qkv[:, :, 0], qkv[:, :, 1:]
        if context is not None:
            keys_values = jnp.concatenate([keys_values, project(context, 2, "context")], axis=1)
        seen = None
        if mask is not None:
            seen = jnp.concatenate([jnp.ones((b, height * width), bool), mask], axis=1)[:, None, None, :]
        h = jax.nn.dot_product_attention(query, keys_values[:, :, 0], keys_values[:, :, 1], mask=seen)
        return x + linear(h.reshape(x.shape), channels, dtype=self.dtype, kernel_init=zeros, name="out")
