"""U-ViT without its final convolution, the backbone of MaskDM (Bao et al. 2023, arXiv 2209.12152; Lei et al. 2023)."""

import itertools
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.cond import example
from maskdiff_jax.models import layers
from maskdiff_jax.models.base import from_linen
from maskdiff_jax.models.conditioning import conditions, merge
from maskdiff_jax.models.kernels import check_kernel
from maskdiff_jax.models.sizes import check_heads, cond_shape, preset_sizes, token_grid
from maskdiff_jax.models.stack import Stack, numbered
from maskdiff_jax.tokens import cut, gather
from maskdiff_jax.tokens import segments as token_segments
from maskdiff_jax.types import Cond, CondShape, Model, Output, Segments, Tokens

# The published code of MaskDM. A depth of 12 gives 13 blocks too, 16 gives 17.
PRESETS = {
    "small": {"width": 512, "depth": 13, "heads": 8},
    "base": {"width": 768, "depth": 13, "heads": 12},
    "large": {"width": 1024, "depth": 17, "heads": 16},
}
QKV_BIASES = ("none", "qv")
PRESET_QKV_BIAS = {"small": "none", "base": "none", "large": "qv"}

# Kernels and positions. The published truncation at ±2 lies 100 standard deviations out: a plain normal.
initialise = layers.embedding_init
linear = partial(layers.linear, kernel_init=initialise)
layer_norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32)

Ids = Int[Array, "b k"]


def uvit(
    image_shape: tuple[int, int, int],
    classes: int | CondShape = 0,
    *,
    preset: str = "small",
    patch: int = 2,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_ratio: float = 4.0,
    qkv_bias: str | None = None,
    positions: bool = True,
    segments: tuple[int, ...] | None = None,
    level_scale: float = 1000.0,
    conditioning: Mapping[str, Mapping[str, Any]] | None = None,
    attention: str = "auto",
    remat: str = "none",
    scan: bool = False,
    dtype: str = "float32",
) -> Model:
    """A U-ViT for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional.

    ``classes`` is their number, or the shape of all conditions that the data carry. The level and all conditions are
    tokens beside the image's. GELU is the exact one (by the error function), as in the published code.

    Only the visible tokens are embedded and computed: ``apply(..., visible=ids)`` answers for ``ids`` [b, k] with a
    prediction [b, k, p, p, c], float32. With ``segments`` ids and predictions are tuples, one entry each.

    Args:
      preset: 'small', 'base' or 'large'; ``width``, ``depth`` and ``heads`` override its entries.
      patch: side of a patch; must divide the image.
      depth: gives depth//2 blocks, one in the middle, and depth//2 that first mix in the output of their twin among the
        first, the last of them first.
      mlp_ratio: hidden units of the MLP per unit of width.
      qkv_bias: biases of queries and values: 'none' or 'qv'; by default as published, 'qv' for 'large' alone.
      positions: False leaves out the learned positions of the image's tokens, so that a visible set is a set of patches
        without places. Those of the level and the conditions, which say what a token is, stay.
      segments: the channels in groups, as (3, 9): each is a grid of tokens with a patch embedding, positions, visible
        ids and a head of its own, all in one transformer. None: one grid of all channels.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label_token": {}}``, the default where
        there are classes; only those that give tokens.
      attention: 'auto', or one of `kernels.KERNELS` where the machine has it, as 'xla' or 'cudnn' (see `kernels`).
      remat: what the backward pass computes again instead of keeping it: 'none', 'dots' (all but the products with
        kernels) or 'full' (the whole of each block), for memory.
      scan: compile blocks that are alike once, as one loop over them, for the time of compiling a deep network.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice, sizes do not divide, ``segments`` do not add up to the
    channels, or a condition gives a vector.
    """
    layers.check_dtype(dtype)
    asked = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    size = preset_sizes("uvit", PRESETS, preset, **asked, mlp_ratio=mlp_ratio, level_scale=level_scale)
    check_heads(size["width"], size["heads"], 2)
    check_kernel(attention, dtype, size["width"] // size["heads"])
    qkv_bias = PRESET_QKV_BIAS[preset] if qkv_bias is None else qkv_bias
    if qkv_bias not in QKV_BIASES:
        raise ValueError(f"qkv_bias={qkv_bias!r}: choose from {', '.join(QKV_BIASES)}")
    grid, shape = token_grid(image_shape, patch), cond_shape(classes)
    tokens = grid if segments is None else _segmented(grid, segments, image_shape[-1])
    embeds = conditions(conditioning, shape, size["width"], label="label_token")
    _check_tokens_only(embeds, shape)
    module = UViT(
        tokens=tokens,
        conditions=embeds,
        **size,  # pyright: ignore[reportArgumentType]
        mlp_ratio=mlp_ratio,
        qv_bias=qkv_bias == "qv",
        positions=positions,
        level_scale=level_scale,
        kernel=attention,
        stack=Stack(remat, scan),
        dtype=dtype,
    )
    return from_linen(module, image_shape, tokens, example(shape))


class Attention(nn.Module):
    """Self-attention as `layers.Attention`, its projection without biases or with those of queries and values."""

    heads: int
    qv_bias: bool
    dtype: DTypeLike
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b k w"], mask: Bool[Array, "b k"] | None = None) -> Float[Array, "b k w"]:
        width = x.shape[-1]
        qkv = linear(x, 3 * width, bias=False, dtype=self.dtype, name="qkv")
        if self.qv_bias:
            query, value = (self.param(f"{name}_bias", layers.zeros, (width,)) for name in ("query", "value"))
            qkv = qkv + jnp.concatenate([query, jnp.zeros_like(query), value]).astype(self.dtype)[None, None]
        return linear(layers.attend(qkv, self.heads, mask, kernel=self.kernel), width, dtype=self.dtype, name="out")


class Block(nn.Module):
    """Attention, then MLP, each after a layer norm; before them, where there is a ``skip``, a linear layer of both."""

    heads: int
    hidden: int
    qv_bias: bool
    dtype: DTypeLike
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b k w"],
        mask: Bool[Array, "b k"] | None = None,
        skip: Float[Array, "b k w"] | None = None,
    ) -> Float[Array, "b k w"]:
        width = x.shape[-1]
        if skip is not None:
            x = linear(jnp.concatenate([x, skip], axis=-1), width, dtype=self.dtype, name="skip")
        h = layer_norm(name="norm")(x).astype(self.dtype)
        x = x + Attention(self.heads, self.qv_bias, self.dtype, self.kernel, name="attention")(h, mask)
        h = layer_norm(name="mlp_norm")(x).astype(self.dtype)
        h = nn.gelu(linear(h, self.hidden, dtype=self.dtype, name="mlp_hidden"), approximate=False)
        return x + linear(h, width, dtype=self.dtype, name="mlp_out")


class UViT(nn.Module):
    """See `uvit`, which checks the options."""

    tokens: Segments
    conditions: Mapping[str, nn.Module]
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    qv_bias: bool
    positions: bool
    level_scale: float
    kernel: str
    stack: Stack
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        level: Float[Array, " b"],
        cond: Cond,
        *,
        visible: Ids | tuple[Ids, ...] | None = None,
        train: bool = False,
    ) -> Output:
        context = merge([embed(cond) for embed in self.conditions.values()])
        extra = layers.sinusoid(self.level_scale * level, self.width)[:, None, :]
        if context.tokens is not None:
            extra = jnp.concatenate([extra, context.tokens], axis=1)
        m = extra.shape[1]
        extra = extra + self.param("extra_positions", initialise, (m, self.width))[None]

        names = [""] if isinstance(self.tokens, Tokens) else [f"_{i}" for i in range(len(self.tokens))]
        grids, patches, ids = token_segments(self.tokens), cut(x, self.tokens), _ids_by_segment(visible, self.tokens)
        parts = [self._embed(*segment) for segment in zip(names, grids, patches, ids, strict=True)]
        h = jnp.concatenate([extra.astype(self.dtype), *parts], axis=1)
        mask = context.mask
        if mask is not None:  # the level before them and the image after them are attended to
            mask = jnp.pad(mask, ((0, 0), (1, h.shape[1] - m)), constant_values=True)

        hidden, half = int(self.mlp_ratio * self.width), self.depth // 2
        block = partial(Block, self.heads, hidden, self.qv_bias, self.dtype, self.kernel)
        through = partial(self.stack, self, block)
        h, skips = through(numbered("in", half), h, mask, keep=True)
        h, _ = through(["middle"], h, mask)
        h, _ = through(numbered("out", half), h, mask, each=skips[::-1])

        h = layer_norm(name="norm")(h[:, m:])
        parts = jnp.split(h, list(itertools.accumulate(part.shape[1] for part in parts[:-1])), axis=1)
        answers = tuple(_head(*segment) for segment in zip(names, patches, parts, strict=True))
        return Output(answers[0] if isinstance(self.tokens, Tokens) else answers, visible)

    def _embed(
        self, name: str, tokens: Tokens, patches: Float[Array, "b n p p c"], ids: Ids | None
    ) -> Float[Array, "b k w"]:
        """One segment's visible patches, embedded, with their positions."""
        patches = patches if ids is None else gather(patches, ids)  # first, so that hidden tokens cost nothing
        h = linear(patches.reshape(*patches.shape[:2], -1), self.width, dtype=self.dtype, name=f"embed{name}")
        if not self.positions:
            return h
        rows = self.param(f"positions{name}", initialise, (*tokens.grid, self.width)).reshape(-1, self.width)
        return h + (rows[None] if ids is None else rows[ids]).astype(self.dtype)


def _head(name: str, patches: Float[Array, "b n p p c"], h: Float[Array, "b k w"]) -> Float[Array, "b k p p c"]:
    """One segment's answers, of the shape of its patches; inside the compact method."""
    shape = patches.shape[2:]
    return linear(h, prod(shape), name=f"head{name}").reshape(*h.shape[:2], *shape)


def _ids_by_segment(visible: Ids | tuple[Ids, ...] | None, tokens: Segments) -> tuple[Ids | None, ...]:
    if isinstance(tokens, Tokens):
        return (cast(Ids | None, visible),)
    if visible is not None and (not isinstance(visible, tuple) or len(visible) != len(tokens)):
        raise ValueError(f"visible must be None or a tuple of {len(tokens)} ids, one for each segment")
    return (None,) * len(tokens) if visible is None else visible


def _segmented(grid: Tokens, channels: tuple[int, ...], total: int) -> tuple[Tokens, ...]:
    """A grid for each group of channels, in order."""
    if not channels or min(channels) < 1 or sum(channels) != total:
        raise ValueError(f"segments={channels}: channel counts ≥ 1 that add up to the {total} of the image")
    stops = list(itertools.accumulate(channels))
    return tuple(grid._replace(channels=(stop - n, stop)) for n, stop in zip(channels, stops, strict=True))


def _check_tokens_only(embeds: Mapping[str, nn.Module], shape: CondShape) -> None:
    """Trace each condition: what it gives is known in no other way."""
    for name, embed in embeds.items():
        context, _ = jax.eval_shape(embed.init_with_output, jax.random.key(0), example(shape))
        if context.vector is not None:
            raise ValueError(f"conditioning={name!r} gives a vector, and uvit takes tokens only: use label_token")
