"""DiT: a transformer over patches, conditioned through adaLN-zero (Peebles & Xie 2023, arXiv 2212.09748)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.cond import example
from maskdiff_jax.models import layers
from maskdiff_jax.models.base import from_linen
from maskdiff_jax.models.conditioning import Context, conditions, merge
from maskdiff_jax.models.kernels import check_kernel
from maskdiff_jax.models.sizes import check_heads, cond_shape, preset_sizes, token_grid
from maskdiff_jax.models.stack import Stack, numbered
from maskdiff_jax.tokens import gather, patchify, sincos_2d
from maskdiff_jax.types import Cond, CondShape, Model, Output, Tokens

# Table 1 of the paper.
PRESETS = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


def dit(
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
    level_features: str = "dit",
    trained_grid: tuple[int, int] | None = None,
    conditioning: Mapping[str, Mapping[str, Any]] | None = None,
    attention: str = "auto",
    remat: str = "none",
    scan: bool = False,
    dtype: str = "float32",
) -> Model:
    """A DiT for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional.

    ``classes`` is their number, or the shape of all conditions that the data carry.

    Only the visible tokens are embedded and computed: ``apply(..., visible=ids)`` answers for ``ids`` [b, k] with a
    prediction [b, k, p, p, c], float32. A fresh network predicts exactly 0.

    Args:
      preset: 'S', 'B', 'L' or 'XL'; ``width``, ``depth`` and ``heads`` override its entries.
      patch: side of a patch; must divide the image.
      mlp_ratio: hidden units of the MLP per unit of width.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being a second head. iDDPM (Nichol &
        Dhariwal 2021, §3.1) leaves v unclipped; where the clip binds, v receives no gradient.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      level_features: the rates of these: 'dit' as published, or 'diffusers' as in that library's DiT (see `sinusoid`).
      trained_grid: rows and columns of the tokens that the weights were trained on, where they come from a run at
        another resolution: positions are interpolated into it. None counts on (extrapolates).
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label": {}}``; by default the label as a
        vector where there are classes.
      attention: 'auto', or one of `kernels.KERNELS` where the machine has it, as 'xla' or 'cudnn' (see `kernels`).
      remat: what the backward pass computes again instead of keeping it: 'none', 'dots' (all but the products with
        kernels) or 'full' (the whole of each block), for memory.
      scan: compile blocks that are alike once, as one loop over them, for the time of compiling a deep network.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    if level_features not in layers.LEVEL_FEATURES:
        raise ValueError(f"level_features={level_features!r}: choose from {', '.join(layers.LEVEL_FEATURES)}")
    asked = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    scales = {"mlp_ratio": mlp_ratio, "level_scale": level_scale}
    options = {**scales, "learned_variance": learned_variance, "trained_grid": trained_grid, "dtype": dtype}
    options |= {"kernel": attention, "stack": Stack(remat, scan)}
    size = preset_sizes("dit", PRESETS, preset, **asked, **scales)
    options["level_shift"] = layers.LEVEL_FEATURES[level_features]
    return transformer(DiT, image_shape, classes, patch, conditioning, **size, **options)


def transformer(
    kind: type["Transformer"],
    image_shape: tuple[int, int, int],
    classes: int | CondShape,
    patch: int,
    conditioning: Mapping[str, Mapping[str, Any]] | None,
    label: str = "label",
    **options: Any,
) -> Model:
    """The `Model` of a ``kind`` of transformer, from its other fields as ``options``.

    ``label`` is the member for the class label where ``conditioning`` is None. Raises ValueError for an unknown dtype
    or attention, heads that do not divide the width, a patch that does not divide the image and conditions that do
    not exist.
    """
    layers.check_dtype(options["dtype"])
    check_heads(options["width"], options["heads"], 4)
    check_kernel(options["kernel"], options["dtype"], options["width"] // options["heads"])
    grid, shape = token_grid(image_shape, patch), cond_shape(classes)
    embeds = conditions(conditioning, shape, options["width"], label)
    module = kind(tokens=grid, channels=image_shape[-1], conditions=embeds, **options)
    return from_linen(module, image_shape, grid, example(shape))


class Transformer(nn.Module):
    """What transformers over patches share: their options, the way in and the way out; a subclass adds its `blocks`."""

    tokens: Tokens
    channels: int
    conditions: Mapping[str, nn.Module]
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    learned_variance: bool
    level_scale: float
    trained_grid: tuple[int, int] | None
    kernel: str
    stack: Stack
    dtype: DTypeLike
    final_layer: ClassVar[type[nn.Module]] = layers.FinalLayer

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
        context = merge([embed(cond) for embed in self.conditions.values()])
        c = self.embed_level(level, context.vector)

        patches = patchify(x, self.tokens.patch)
        positions = jnp.asarray(sincos_2d(self.width, self.tokens.grid, trained=self.trained_grid), self.dtype)[None]
        if visible is not None:  # before any computation, so that hidden tokens cost nothing
            patches, positions = gather(patches, visible), positions[0, visible]
        b, k = patches.shape[:2]
        h = layers.linear(patches.reshape(b, k, -1), self.width, dtype=self.dtype, name="embed") + positions
        h = self.blocks(h, c, context)
        features = self.tokens.patch**2 * self.channels * (2 if self.learned_variance else 1)
        out = self.final_layer(features, name="final")(h, c)
        return layers.token_answer(out, self.tokens.patch, self.learned_variance, visible)

    def embed_level(self, level: Float[Array, " b"], vector: Float[Array, "b w"] | None) -> Float[Array, "b w"]:
        """The level's vector, with that of the conditions where they have one."""
        return layers.LevelEmbedding(self.width, self.level_scale, name="level")(level, vector)

    def blocks(self, h: Float[Array, "b k w"], c: Float[Array, "b w"], context: Context) -> Float[Array, "b k w"]:
        """The tokens of the image after all blocks; ``c`` is the level's vector with that of the conditions."""
        raise NotImplementedError


class Block(nn.Module):
    """Attention, then MLP; each one shifted and scaled before and gated after by the condition vector."""

    heads: int
    hidden: int
    dtype: DTypeLike
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k w"], c: Float[Array, "b w"], mask: Bool[Array, "b k"] | None = None
    ) -> Float[Array, "b k w"]:
        modulation = layers.Modulation(6, self.dtype, name="modulation")(c)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        h = layers.ModulatedNorm(self.dtype, name="norm")(x, shift, scale)
        x = x + gate * layers.Attention(self.heads, self.dtype, self.kernel, name="attention")(h, mask)
        h = layers.ModulatedNorm(self.dtype, name="mlp_norm")(x, mlp_shift, mlp_scale)
        return x + mlp_gate * layers.Mlp(self.hidden, self.dtype, name="mlp")(h)


class DiT(Transformer):
    """See `dit`, which checks the options."""

    level_shift: int

    def embed_level(self, level: Float[Array, " b"], vector: Float[Array, "b w"] | None) -> Float[Array, "b w"]:
        return layers.LevelEmbedding(self.width, self.level_scale, shift=self.level_shift, name="level")(level, vector)

    def blocks(self, h: Float[Array, "b k w"], c: Float[Array, "b w"], context: Context) -> Float[Array, "b k w"]:
        k = h.shape[1]
        h, mask = layers.prepend(context.tokens, context.mask, h)
        block = partial(Block, self.heads, int(self.mlp_ratio * self.width), self.dtype, self.kernel)
        h, _ = self.stack(self, block, numbered("block", self.depth), h, c, mask)
        return h[:, -k:]
