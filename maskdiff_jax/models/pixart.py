"""PixArt-α: a DiT with cross-attention to condition tokens and one shared modulation (Chen et al. 2023)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models import layers
from maskdiff_jax.models.attention import CrossAttention
from maskdiff_jax.models.conditioning import Context
from maskdiff_jax.models.dit import PRESETS, Transformer, transformer
from maskdiff_jax.models.sizes import preset_sizes
from maskdiff_jax.models.stack import Stack, numbered
from maskdiff_jax.types import CondShape, Model


def pixart(
    image_shape: tuple[int, int, int],
    classes: int | CondShape = 0,
    *,
    preset: str = "S",
    patch: int = 2,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_ratio: float = 4.0,
    learned_variance: bool = False,
    level_scale: float = 1000.0,
    trained_grid: tuple[int, int] | None = None,
    conditioning: Mapping[str, Mapping[str, Any]] | None = None,
    attention: str = "auto",
    remat: str = "none",
    scan: bool = False,
    dtype: str = "float32",
) -> Model:
    """A PixArt-α for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional (arXiv 2310.00426).

    ``classes`` is their number, or the shape of all conditions that the data carry.

    Condition tokens enter by cross-attention between self-attention and MLP; without any there is none. One layer maps
    the level embedding to the shifts, scales and gates of all blocks, to which each block adds a learned table
    (adaLN-single, §2.3); a condition that gives a vector is added to the level embedding.

    Only the visible tokens are embedded and computed: ``apply(..., visible=ids)`` answers for ``ids`` [b, k] with a
    prediction [b, k, p, p, c], float32. A fresh network predicts exactly 0: cross-attention and the last layer start
    with an output of 0, the gates do not.

    Of XL/2 for 32 × 32 × 4 with a learned variance there are 605,961,248 parameters with 1000 classes as label tokens,
    of which 1,153,152 are the label's; 610,857,248 with text of 4096 through ``{"text": {"hidden": 1152}}``. The
    published code has 610,856,096 (0.6 B): the token that stands before each text here has 1,152.

    Args:
      preset: 'S', 'B', 'L' or 'XL', the sizes of DiT (the paper has XL alone); ``width``, ``depth`` and ``heads``
        override its entries.
      patch: side of a patch; must divide the image.
      mlp_ratio: hidden units of the MLP per unit of width.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being a second head, as `dit` does.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      trained_grid: rows and columns of the tokens that the weights were trained on, where they come from a run at
        another resolution: positions are interpolated into it. None counts on (extrapolates).
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label": {}}``; by default the label as a
        token where there are classes.
      attention: 'auto', or one of `kernels.KERNELS` where the machine has it, as 'xla' or 'cudnn' (see `kernels`).
      remat: what the backward pass computes again instead of keeping it: 'none', 'dots' (all but the products with
        kernels) or 'full' (the whole of each block), for memory.
      scan: compile blocks that are alike once, as one loop over them, for the time of compiling a deep network.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    asked = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    scales = {"mlp_ratio": mlp_ratio, "level_scale": level_scale}
    options = {**scales, "learned_variance": learned_variance, "trained_grid": trained_grid, "dtype": dtype}
    options |= {"kernel": attention, "stack": Stack(remat, scan)}
    size = preset_sizes("pixart", PRESETS, preset, **asked, **scales)
    return transformer(PixArt, image_shape, classes, patch, conditioning, label="label_token", **size, **options)


class Offsets(nn.Module):
    """Modulations [b, n, w], one learned table of offsets added, as ``n`` vectors [b, 1, w]; float32.

    The table starts as N(0, 1/w), as in the published code.
    """

    @nn.compact
    def __call__(self, modulation: Float[Array, "b n w"]) -> list[Float[Array, "b 1 w"]]:
        _, n, width = modulation.shape
        table = self.param("table", nn.initializers.normal(width**-0.5), (n, width))
        return jnp.split(modulation + table[None], n, axis=1)


class Block(nn.Module):
    """Self-attention, cross-attention to ``tokens`` where there are any, then MLP.

    Attention and MLP are shifted, scaled and gated by ``modulation``; cross-attention is not.
    """

    heads: int
    hidden: int
    dtype: DTypeLike
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b k w"],
        modulation: Float[Array, "b 6 w"],
        tokens: Float[Array, "b m w"] | None,
        mask: Bool[Array, "b m"] | None,
    ) -> Float[Array, "b k w"]:
        parts = [part.astype(self.dtype) for part in Offsets(name="offsets")(modulation)]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        h = layers.ModulatedNorm(self.dtype, name="norm")(x, shift, scale)
        x = x + gate * layers.Attention(self.heads, self.dtype, self.kernel, name="attention")(h)
        if tokens is not None:
            cross = CrossAttention(
                self.heads, self.dtype, out_init=layers.zeros, kernel=self.kernel, name="cross_attention"
            )
            x = x + cross(x, tokens, mask)
        h = layers.ModulatedNorm(self.dtype, name="mlp_norm")(x, mlp_shift, mlp_scale)
        return x + mlp_gate * layers.Mlp(self.hidden, self.dtype, name="mlp")(h)


class FinalLayer(nn.Module):
    """Norm shifted and scaled by the level embedding plus offsets, and a linear layer that starts at 0; float32."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b k w"], c: Float[Array, "b w"]) -> Float[Array, "b k f"]:
        shift, scale = Offsets(name="offsets")(jnp.stack([c, c], axis=1))
        x = layers.ModulatedNorm(name="norm")(x, shift, scale)
        return layers.linear(x, self.features, kernel_init=layers.zeros, name="linear")


class PixArt(Transformer):
    """See `pixart`, which checks the options."""

    final_layer = FinalLayer

    def blocks(self, h: Float[Array, "b k w"], c: Float[Array, "b w"], context: Context) -> Float[Array, "b k w"]:
        modulation = layers.linear(nn.silu(c), 6 * self.width, kernel_init=layers.embedding_init, name="modulation")
        modulation = modulation.reshape(-1, 6, self.width)
        block = partial(Block, self.heads, int(self.mlp_ratio * self.width), self.dtype, self.kernel)
        return self.stack(self, block, numbered("block", self.depth), h, modulation, context.tokens, context.mask)[0]
