"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233), by default in the light form of P2 and Debias.

And that of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), as a preset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from maskdiff_jax.cond import example
from maskdiff_jax.models.base import from_linen
from maskdiff_jax.models.conditioning import conditions, merge
from maskdiff_jax.models.layers import LevelEmbedding, check_dtype, with_variance, zeros
from maskdiff_jax.models.sizes import cond_shape
from maskdiff_jax.models.unet_layers import AttentionBlock, ResBlock, conv, double, group_norm
from maskdiff_jax.models.unet_sizes import Sizes, unet_sizes
from maskdiff_jax.models.unet_transformer import SpatialTransformer
from maskdiff_jax.types import Cond, CondShape, Model, Output


def unet(
    image_shape: tuple[int, int, int],
    classes: int | CondShape = 0,
    *,
    preset: str = "adm",
    base: int | None = None,
    multipliers: Sequence[int] | None = None,
    blocks: int | None = None,
    attention: Sequence[int] | None = None,
    head_channels: int | None = None,
    transformer_depth: int | None = None,
    scale_shift: bool | None = None,
    resample_in_blocks: bool | None = None,
    groups: int = 32,
    learned_variance: bool = False,
    level_scale: float = 1000.0,
    conditioning: Mapping[str, Mapping[str, Any]] | None = None,
    dtype: str = "float32",
) -> Model:
    """A U-Net for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional.

    The prediction is [b, h, w, c], float32. It has no tokens: ``apply`` raises ValueError where ``visible`` is given.
    A fresh network predicts exactly 0. There is no dropout.

    Args:
      preset: what the following options up to ``resample_in_blocks`` are where they are None. 'adm': those of P2 and
        Debias. 'ldm': those of the class-conditional LDM-4 of ImageNet at 256 px, for latents of 64×64×3; its released
        U-Net has 400,920,579 parameters. This one has 5,406,720 more, as its condition tokens are 768 wide, like its
        vectors, not 512; and 768,768 for the table of labels, which the released count leaves out.
      base: channels at full resolution; a quarter of the width of the level and condition vectors. 'adm': 128, 'ldm':
        192.
      multipliers: channels of each level in units of ``base``; each level after the first halves the sides. 'adm':
        those of `MULTIPLIERS` for the shorter side of the image, 'ldm': (1, 2, 3, 5).
      blocks: residual blocks of a level on the way down; on the way up there is one more. 'adm': 1, 'ldm': 2.
      attention: shorter sides in pixels at which every residual block is followed by attention; () is only in the
        middle, where it always is. 'adm': 16, where there is such a level, 'ldm': all but the first.
      head_channels: channels of an attention head; 0 is one head of all of them. 'adm': 64, 'ldm': 0.
      transformer_depth: 0 is a plain attention block; from 1 on it is a spatial transformer of that depth, with a
        cross-attention to the condition tokens where there are any. 'adm': 0, 'ldm': 1.
      scale_shift: the level and the condition vectors scale and shift the second norm of a residual block, rather than
        being added before it. 'adm': True, 'ldm': False.
      resample_in_blocks: sides are halved and doubled inside residual blocks, rather than by a convolution alone.
        'adm': True, 'ldm': False.
      groups: of the group norms.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being c more output channels. iDDPM
        (Nichol & Dhariwal 2021, §3.1) leaves v unclipped; where the clip binds, v receives no gradient.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label_token": {}}``; by default the label
        where there are classes, 'adm': as a vector, 'ldm': as a token. Vectors join the level's; tokens are attended to
        in every attention block.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    h, w, channels = image_shape
    check_dtype(dtype)
    if level_scale <= 0:
        raise ValueError(f"level_scale={level_scale} must be positive")
    shape = cond_shape(classes)
    sizes = unet_sizes(
        h,
        w,
        groups,
        preset,
        base=base,
        multipliers=multipliers,
        blocks=blocks,
        attention=attention,
        head_channels=head_channels,
        transformer_depth=transformer_depth,
        scale_shift=scale_shift,
        resample_in_blocks=resample_in_blocks,
    )
    module = UNet(
        channels=channels,
        conditions=conditions(conditioning, shape, 4 * sizes.base, sizes.label),
        sizes=sizes,
        groups=groups,
        learned_variance=learned_variance,
        level_scale=level_scale,
        dtype=dtype,
    )
    return from_linen(module, (h, w, channels), cond=example(shape))


class UNet(nn.Module):
    """See `unet`, which checks the options."""

    channels: int
    conditions: Mapping[str, nn.Module]
    sizes: Sizes
    groups: int
    learned_variance: bool
    level_scale: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        level: Float[Array, " b"],
        cond: Cond,
        *,
        visible: Int[Array, "b k"] | None = None,
        train: bool = False,
    ) -> Output:
        if visible is not None:
            raise ValueError("a U-Net has no tokens to hide: visible must be None")
        context = merge([embed(cond) for embed in self.conditions.values()])
        base, steps = self.sizes.base, self.sizes.multipliers
        c = LevelEmbedding(4 * base, self.level_scale, features=base, name="level")(level, context.vector)

        def residual(h: Array, width: int, name: str, resample: str = "keep") -> Array:
            return ResBlock(width, self.groups, self.dtype, resample, self.sizes.scale_shift, name=name)(h, c)

        def attend(h: Array, name: str) -> Array:
            options = (self.sizes.head_channels, self.groups, self.dtype)
            depth = self.sizes.transformer_depth
            kind = SpatialTransformer(depth, *options, name=name) if depth else AttentionBlock(*options, name=name)
            return kind(h, context.tokens, context.mask)

        def block(h: Array, i: int, name: str) -> Array:
            h = residual(h, base * steps[i], name)
            return attend(h, f"{name}_attention") if self.sizes.attention[i] else h

        def down(h: Array, name: str) -> Array:
            if self.sizes.resample_in_blocks:
                return residual(h, h.shape[-1], name, "down")
            return conv(h, h.shape[-1], dtype=self.dtype, name=name, stride=2)

        def up(h: Array, name: str) -> Array:
            if self.sizes.resample_in_blocks:
                return residual(h, h.shape[-1], name, "up")
            return conv(double(h), h.shape[-1], dtype=self.dtype, name=name)

        h = conv(x, base, dtype=self.dtype, name="embed")
        skips = [h]
        for i in range(len(steps)):
            if i:
                h = down(h, f"down_{i}")
                skips.append(h)
            for j in range(self.sizes.blocks):
                h = block(h, i, f"encoder_{i}_{j}")
                skips.append(h)

        h = residual(h, h.shape[-1], "middle_0")
        h = attend(h, "middle_attention")
        h = residual(h, h.shape[-1], "middle_1")

        for i in reversed(range(len(steps))):
            for j in range(self.sizes.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), i, f"decoder_{i}_{j}")
            if i:
                h = up(h, f"up_{i}")

        features = self.channels * (2 if self.learned_variance else 1)
        out = conv(nn.silu(group_norm(h, self.groups, name="norm")), features, kernel_init=zeros, name="final")
        return with_variance(out, self.learned_variance)
