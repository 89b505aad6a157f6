"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233), by default in the light form of P2 and Debias."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from maskdiff_jax.cond import example
from maskdiff_jax.models.base import from_linen
from maskdiff_jax.models.conditioning import conditions, merge
from maskdiff_jax.models.layers import LevelEmbedding, check_dtype, zeros
from maskdiff_jax.models.sizes import cond_shape
from maskdiff_jax.models.unet_layers import AttentionBlock, ResBlock, conv, group_norm
from maskdiff_jax.types import Cond, CondShape, Model, Output

# By the shorter side. 64 and more: ADM's. 32: Debias's (Yu et al. 2024). Below: the same, down to 4 pixels or 7; ours.
MULTIPLIERS = {
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
    28: (1, 2, 2),
    16: (1, 2, 2),
    8: (1, 2),
}


def unet(
    image_shape: tuple[int, int, int],
    classes: int | CondShape = 0,
    *,
    base: int = 128,
    multipliers: Sequence[int] | None = None,
    blocks: int = 1,
    attention: Sequence[int] | None = None,
    head_channels: int = 64,
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
      base: channels at full resolution; a quarter of the width of the level and condition vectors.
      multipliers: channels of each level in units of ``base``; each level after the first halves the sides. By default
        those of `MULTIPLIERS` for the shorter side of the image.
      blocks: residual blocks of a level on the way down; on the way up there is one more.
      attention: shorter sides in pixels at which every residual block is followed by attention; () is only in the
        middle, where it always is. By default 16, where there is such a level.
      head_channels: channels of an attention head.
      groups: of the group norms.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being c more output channels. iDDPM
        (Nichol & Dhariwal 2021, §3.1) leaves v unclipped; where the clip binds, v receives no gradient.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label_token": {}}``; by default the label as a
        vector where there are classes. Vectors join the level's; tokens are attended to in every attention block.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    h, w, channels = image_shape
    side = min(h, w)
    check_dtype(dtype)
    shape = cond_shape(classes)
    if multipliers is None and side not in MULTIPLIERS:
        known = ", ".join(map(str, MULTIPLIERS))
        raise ValueError(f"unet: give multipliers for an image of {h}×{w}; there are defaults for sides of {known}")
    steps = MULTIPLIERS[side] if multipliers is None else tuple(multipliers)
    if not steps or min(steps) < 1:
        raise ValueError(f"multipliers={steps}: one whole number of at least 1 for each level")
    counts = {"base": base, "blocks": blocks, "head_channels": head_channels, "groups": groups}
    if small := [f"{name}={value}" for name, value in counts.items() if value < 1]:
        raise ValueError(f"unet: must be at least 1: {', '.join(small)}")
    if level_scale <= 0:
        raise ValueError(f"level_scale={level_scale} must be positive")
    shrink = 2 ** (len(steps) - 1)
    if h % shrink or w % shrink:
        raise ValueError(f"multipliers={steps}: {len(steps)} levels need sides divisible by {shrink}, not {h}×{w}")
    sides = [side // 2**i for i in range(len(steps))]
    attended = tuple(s for s in sides if s == 16) if attention is None else tuple(attention)
    if unknown := [s for s in attended if s not in sides]:
        raise ValueError(f"attention={unknown[0]}: choose from the sides of the levels, {', '.join(map(str, sides))}")
    if base % groups or base % 2:
        raise ValueError(f"base={base} must be even and divisible by groups={groups}")
    with_attention = [base * m for m, s in zip(steps, sides, strict=True) if s in attended] + [base * steps[-1]]
    if odd := [width for width in with_attention if width % head_channels]:
        raise ValueError(f"head_channels={head_channels} does not divide the {odd[0]} channels of an attention block")

    module = UNet(
        channels=channels,
        conditions=conditions(conditioning, shape, 4 * base),
        base=base,
        multipliers=steps,
        blocks=blocks,
        attention=tuple(s in attended for s in sides),
        head_channels=head_channels,
        groups=groups,
        learned_variance=learned_variance,
        level_scale=level_scale,
        dtype=dtype,
    )
    return from_linen(module, (h, w, channels), cond=example(shape))


class UNet(nn.Module):
    """See `unet`, which checks the options. ``attention`` says for each level whether its blocks attend."""

    channels: int
    conditions: Mapping[str, nn.Module]
    base: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    head_channels: int
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
        c = LevelEmbedding(4 * self.base, self.level_scale, features=self.base, name="level")(level)
        c = c if context.vector is None else c + context.vector

        def residual(h: Array, width: int, name: str, resample: str = "keep") -> Array:
            return ResBlock(width, self.groups, self.dtype, resample, name=name)(h, c)

        def attend(h: Array, name: str) -> Array:
            return AttentionBlock(self.head_channels, self.groups, self.dtype, name=name)(
                h, context.tokens, context.mask
            )

        def block(h: Array, i: int, name: str) -> Array:
            h = residual(h, self.base * self.multipliers[i], name)
            return attend(h, f"{name}_attention") if self.attention[i] else h

        h = conv(x, self.base, dtype=self.dtype, name="embed")
        skips = [h]
        for i in range(len(self.multipliers)):
            if i:
                h = residual(h, h.shape[-1], f"down_{i}", "down")
                skips.append(h)
            for j in range(self.blocks):
                h = block(h, i, f"encoder_{i}_{j}")
                skips.append(h)

        h = residual(h, h.shape[-1], "middle_0")
        h = attend(h, "middle_attention")
        h = residual(h, h.shape[-1], "middle_1")

        for i in reversed(range(len(self.multipliers))):
            for j in range(self.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), i, f"decoder_{i}_{j}")
            if i:
                h = residual(h, h.shape[-1], f"up_{i}", "up")

        features = self.channels * (2 if self.learned_variance else 1)
        out = conv(nn.silu(group_norm(h, self.groups, name="norm")), features, kernel_init=zeros, name="final")
        if not self.learned_variance:
            return Output(out)
        prediction, v = jnp.split(out, 2, axis=-1)
        return Output(prediction, variance=jnp.clip((v + 1) / 2, 0, 1))
