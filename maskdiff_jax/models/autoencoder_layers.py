"""The network of latent diffusion's autoencoder (Rombach et al. 2022, arXiv 2112.10752), NHWC, module for module.

Modules carry the names of the published folders: "down_blocks.0.resnets.1" is "down_blocks_0/resnets_1" here. Kernels
start uniform in ±1/√fan-in and biases at 0. ``dtype`` is that of the arithmetic; norms, softmax and the last
convolutions of the encoder and of the decoder are float32.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maskdiff_jax.models.layers import linear
from maskdiff_jax.models.unet_layers import conv, double, fan_in_uniform


def norm(x: Float[Array, "*b c"], groups: int, *, name: str) -> Float[Array, "*b c"]:
    """Normalise each group of channels over all positions of an image, then a learned scale and shift; float32.

    The variance is the mean of squared deviations: published weights have activations whose mean is so far from 0 that
    the mean of squares less the squared mean loses its digits.
    """
    module = nn.GroupNorm(groups, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False, name=name)
    return module(x)


def active(x: Float[Array, "b h w c"], groups: int, dtype: DTypeLike, *, name: str) -> Float[Array, "b h w c"]:
    """Norm and SiLU."""
    return nn.silu(norm(x, groups, name=name)).astype(dtype)


def pointwise(features: int, dtype: DTypeLike = "float32", name: str | None = None) -> nn.Conv:
    """A 1×1 convolution, whose kernel has four axes in the published folders too."""
    return nn.Conv(features, (1, 1), dtype=dtype, kernel_init=fan_in_uniform, name=name)


class ResBlock(nn.Module):
    """Norm-SiLU-convolution twice, and a skip connection that is linear where the number of channels changes."""

    features: int
    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        h = active(x, self.groups, self.dtype, name="norm1")
        h = conv(h, self.features, dtype=self.dtype, name="conv1")
        h = active(h, self.groups, self.dtype, name="norm2")
        h = conv(h, self.features, dtype=self.dtype, name="conv2")
        if x.shape[-1] != self.features:
            x = pointwise(self.features, self.dtype, "conv_shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Attention with one head among all positions of the image, after a norm and beside a skip connection."""

    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, height, width, channels = x.shape
        h = norm(x.reshape(b, height * width, channels), self.groups, name="group_norm")

        def project(h: Float[Array, "b k c"], name: str) -> Float[Array, "b k c"]:
            return linear(h, channels, dtype=self.dtype, kernel_init=fan_in_uniform, name=name)

        query, key, value = (project(h, name)[:, :, None] for name in ("to_q", "to_k", "to_v"))
        h = jax.nn.dot_product_attention(query, key, value)[:, :, 0]
        return x + project(h, "to_out_0").reshape(x.shape)


class MidBlock(nn.Module):
    """Two residual blocks, with attention between them or not."""

    groups: int
    attention: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_0")(x)
        if self.attention:
            x = AttentionBlock(self.groups, self.dtype, name="attentions_0")(x)
        return ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_1")(x)


class Downsampler(nn.Module):
    """A 3×3 convolution from every second pixel to the right and downwards: 0 beyond those two borders alone."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
        options = {"padding": ((0, 1), (0, 1)), "dtype": self.dtype, "kernel_init": fan_in_uniform, "name": "conv"}
        return nn.Conv(x.shape[-1], (3, 3), 2, **options)(x)


class Upsampler(nn.Module):
    """Each pixel as a 2×2 square, then a 3×3 convolution."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        return conv(double(x), x.shape[-1], dtype=self.dtype, name="conv")


class Stage(nn.Module):
    """``blocks`` residual blocks with ``features`` channels, then ``resample``: 'down', 'up' or 'keep'."""

    features: int
    blocks: int
    groups: int
    dtype: DTypeLike
    resample: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for i in range(self.blocks):
            x = ResBlock(self.features, self.groups, self.dtype, name=f"resnets_{i}")(x)
        return RESAMPLE[self.resample](x, self.dtype)


# Called inside a module's compact method.
RESAMPLE = {
    "keep": lambda x, dtype: x,
    "down": lambda x, dtype: Downsampler(dtype, name="downsamplers_0")(x),
    "up": lambda x, dtype: Upsampler(dtype, name="upsamplers_0")(x),
}


class Encoder(nn.Module):
    """Images to 2·``latent`` channels, the sides halved between each two of the stages of ``widths`` channels."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    attention: bool
    latent: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        h = conv(x, self.widths[0], dtype=self.dtype, name="conv_in")
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            resample = "down" if i < last else "keep"
            h = Stage(width, self.blocks, self.groups, self.dtype, resample, name=f"down_blocks_{i}")(h)
        h = MidBlock(self.groups, self.attention, self.dtype, name="mid_block")(h)
        return conv(active(h, self.groups, "float32", name="conv_norm_out"), 2 * self.latent, name="conv_out")


class Decoder(nn.Module):
    """The stages of the encoder in reverse, each with one residual block more."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    attention: bool
    out: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, z: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        h = conv(z, self.widths[-1], dtype=self.dtype, name="conv_in")
        h = MidBlock(self.groups, self.attention, self.dtype, name="mid_block")(h)
        last = len(self.widths) - 1
        for i, width in enumerate(reversed(self.widths)):
            resample = "up" if i < last else "keep"
            h = Stage(width, self.blocks + 1, self.groups, self.dtype, resample, name=f"up_blocks_{i}")(h)
        return conv(active(h, self.groups, "float32", name="conv_norm_out"), self.out, name="conv_out")


class AutoencoderKL(nn.Module):
    """Encoder and decoder, with 1×1 convolutions on the side of the latents or not: ``quant``, ``post_quant``."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    attention: bool
    latent: int
    out: int
    quant: bool
    post_quant: bool
    dtype: DTypeLike

    def setup(self) -> None:
        options = (self.widths, self.blocks, self.groups, self.attention)
        self.encoder = Encoder(*options, self.latent, self.dtype)
        self.decoder = Decoder(*options, self.out, self.dtype)
        self.quant_conv = pointwise(2 * self.latent) if self.quant else None
        self.post_quant_conv = pointwise(self.latent) if self.post_quant else None

    def encode(self, x: Float[Array, "b h w i"]) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b h2 w2 c"]]:
        """Mean and standard deviation of the latents; the logarithm of the variance is clipped to [-30, 20]."""
        moments = self.encoder(x)
        mean, log_variance = jnp.split(moments if self.quant_conv is None else self.quant_conv(moments), 2, axis=-1)
        return mean, jnp.exp(jnp.clip(log_variance, -30, 20) / 2)

    def decode(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """The decoded mean: a way through all parameters, for `init`."""
        return self.decode(self.encode(x)[0])
