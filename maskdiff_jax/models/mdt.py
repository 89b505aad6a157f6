"""MDTv2: a masked diffusion transformer that also answers for the tokens it does not see (Gao et al. 2023)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.models import layers
from maskdiff_jax.models.attention import RelativeAttention
from maskdiff_jax.models.conditioning import merge
from maskdiff_jax.models.dit import PRESETS as SIZES
from maskdiff_jax.models.dit import Transformer, transformer
from maskdiff_jax.models.sizes import preset_sizes
from maskdiff_jax.models.stack import Stack, numbered
from maskdiff_jax.tokens import gather, patchify, scatter, sincos_2d
from maskdiff_jax.types import Cond, CondShape, Model, Output

# Of DiT, and decoder: 6 for S and 4 for XL as in the published training scripts, else 4, the default of the code.
DECODER = {"S": 6, "B": 4, "L": 4, "XL": 4}
PRESETS = {name: {**size, "decoder": DECODER[name]} for name, size in SIZES.items()}


def mdt(
    image_shape: tuple[int, int, int],
    classes: int | CondShape = 0,
    *,
    preset: str = "S",
    patch: int = 2,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder: int | None = None,
    mlp_ratio: float = 4.0,
    relative_positions: bool = True,
    input_shortcuts: bool = True,
    learned_variance: bool = False,
    level_scale: float = 1000.0,
    trained_grid: tuple[int, int] | None = None,
    conditioning: Mapping[str, Mapping[str, Any]] | None = None,
    attention: str = "auto",
    remat: str = "none",
    scan: bool = False,
    dtype: str = "float32",
) -> Model:
    """An MDTv2 for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional (arXiv 2303.14389v2).

    ``classes`` is their number, or the shape of all conditions that the data carry.

    The encoder's blocks compute the visible tokens alone; each block of its second half first mixes in, by a linear
    layer, the output of the one that mirrors it in the first. The side-interpolater puts the result on the whole grid,
    a learned mask token at the hidden places, and one block over all tokens fills the hidden places. The decoder's
    blocks compute all tokens. So the answer is always for all tokens, [b, n, p, p, c] in order, float32, with
    ``Output.ids`` None. Without ``visible`` nothing is interpolated. A fresh network predicts exactly 0.

    MDT is trained on both: ``passes=((1, None), (1, patch(ratio)))`` with ratios in [0.3, 0.5].

    Of XL/2 for 32 × 32 × 4 with 1000 classes and a learned variance there are 741,672,688 parameters: those of
    DiT-XL/2 (674,834,720), 16 linear layers of the skips (42,485,760), the block of the side-interpolater (23,905,152),
    29 tables of relative positions (445,904) and the mask token (1,152). The published code has 591,216 more: it
    learns its two arrays of positions, which are fixed here so that ``trained_grid`` can resample them, and each of its
    tables has 3 unused rows. The 675.8 M that are quoted count the first version, which had no skips, as it samples:
    without the block of the side-interpolater, its code has 675,857,568.

    Args:
      preset: 'S', 'B', 'L' or 'XL'; ``width``, ``depth``, ``heads`` and ``decoder`` override its entries.
      patch: side of a patch; must divide the image.
      decoder: blocks of the decoder, out of ``depth``; the others are the encoder's, an even number. The block of the
        side-interpolater is one more.
      mlp_ratio: hidden units of the MLP per unit of width.
      relative_positions: learned biases by relative position in every attention, as in the published code.
      input_shortcuts: each block of the decoder first mixes in the embedded input, as published for version 2. It then
        reads the noised patches of hidden tokens too, which otherwise nothing does.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being a second head, as `dit` does.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      trained_grid: rows and columns of the tokens that the weights were trained on, where they come from a run at
        another resolution: positions and relative positions are interpolated into it. None counts on (extrapolates).
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label": {}}``; by default the label as a
        vector where there are classes. Tokens are attended to in every block, beside the image's.
      attention: 'auto', or one of `kernels.KERNELS` where the machine has it, as 'xla' or 'cudnn' (see `kernels`).
      remat: what the backward pass computes again instead of keeping it: 'none', 'dots' (all but the products with
        kernels) or 'full' (the whole of each block), for memory.
      scan: compile blocks that are alike once, as one loop over them, for the time of compiling a deep network.
      dtype: of the arithmetic and of the residual stream, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    asked = {"width": width, "depth": depth, "heads": heads, "decoder": decoder, "patch": patch}
    scales = {"mlp_ratio": mlp_ratio, "level_scale": level_scale}
    options = {**scales, "learned_variance": learned_variance, "trained_grid": trained_grid, "dtype": dtype}
    options |= {"kernel": attention, "stack": Stack(remat, scan)}
    options |= {"relative_positions": relative_positions, "input_shortcuts": input_shortcuts}
    size = preset_sizes("mdt", PRESETS, preset, **asked, **scales)
    size["encoder"] = size["depth"] - size.pop("decoder")
    if size["encoder"] < 2 or size["encoder"] % 2:
        blocks = f"decoder={size['depth'] - size['encoder']} of depth={size['depth']}"
        raise ValueError(f"mdt: {blocks} blocks must leave an even number for the encoder, at least 2")
    return transformer(MDT, image_shape, classes, patch, conditioning, **size, **options)


class Block(nn.Module):
    """The block of `dit` on tokens ``ids``, with a skip mixed in before and a bias by relative position.

    ``grid`` is None for plain attention.
    """

    heads: int
    hidden: int
    grid: tuple[int, int] | None
    trained_grid: tuple[int, int] | None
    dtype: DTypeLike
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b mk w"],
        c: Float[Array, "b w"],
        ids: Int[Array, "#b k"],
        mask: Bool[Array, "b mk"] | None,
        skip: Float[Array, "b mk w"] | None = None,
    ) -> Float[Array, "b mk w"]:
        if skip is not None:
            x = layers.linear(jnp.concatenate([x, skip], -1), x.shape[-1], dtype=self.dtype, name="skip")
        modulation = layers.Modulation(6, self.dtype, name="modulation")(c)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        h = layers.ModulatedNorm(self.dtype, name="norm")(x, shift, scale)
        if self.grid is None:
            h = layers.Attention(self.heads, self.dtype, self.kernel, name="attention")(h, mask)
        else:
            options = (self.heads, self.grid, self.trained_grid, self.dtype, self.kernel)
            h = RelativeAttention(*options, name="attention")(h, ids, mask)
        x = x + gate * h
        h = layers.ModulatedNorm(self.dtype, name="mlp_norm")(x, mlp_shift, mlp_scale)
        return x + mlp_gate * layers.Mlp(self.hidden, self.dtype, name="mlp")(h)


class MDT(Transformer):
    """See `mdt`, which checks the options. ``encoder``: blocks of the encoder out of ``depth``."""

    encoder: int
    relative_positions: bool
    input_shortcuts: bool

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
        c = layers.LevelEmbedding(self.width, self.level_scale, name="level")(level, context.vector)

        patches = patchify(x, self.tokens.patch)
        n = patches.shape[1]
        positions = jnp.asarray(sincos_2d(self.width, self.tokens.grid, trained=self.trained_grid), self.dtype)[None]
        every = jnp.arange(n)[None]
        ids, seen = (every, positions) if visible is None else (visible, positions[0, visible])
        if visible is not None and not self.input_shortcuts:
            patches = gather(patches, visible)
        h = layers.linear(patches.reshape(*patches.shape[:2], -1), self.width, dtype=self.dtype, name="embed")
        shortcut = None
        if self.input_shortcuts:
            shortcut, _ = layers.prepend(context.tokens, None, h + positions)
            h = h if visible is None else gather(h, visible)

        grid = self.tokens.grid if self.relative_positions else None
        hidden = int(self.mlp_ratio * self.width)
        block = partial(Block, self.heads, hidden, grid, self.trained_grid, self.dtype, self.kernel)
        through = partial(self.stack, self, block)

        h, mask = layers.prepend(context.tokens, context.mask, h + seen)
        names, half = numbered("encoder", self.encoder), self.encoder // 2
        h, skips = through(names[:half], h, c, ids, mask, keep=True)
        h, _ = through(names[half:], h, c, ids, mask, each=skips[::-1])

        m = h.shape[1] - ids.shape[1]
        extra, h, shown = None if m == 0 else h[:, :m], h[:, m:], None
        if visible is not None or self.is_initializing():  # so that its parameters exist in any case
            places = jnp.broadcast_to(ids, h.shape[:2])
            shown = scatter(jnp.ones_like(places, bool), places, n)[:, :, None]
            token = self.param("mask_token", layers.embedding_init, (1, 1, self.width)).astype(self.dtype)
            h = jnp.where(shown, scatter(h, places, n), token)
        h, mask = layers.prepend(extra, context.mask, h + positions)
        if shown is not None:
            kept = jnp.pad(shown, ((0, 0), (m, 0), (0, 0)), constant_values=True)
            h = jnp.where(kept, h, through(["side"], h, c, every, mask)[0])
        h, _ = through(numbered("decoder", self.depth - self.encoder), h, c, every, mask, shortcut)

        features = self.tokens.patch**2 * self.channels * (2 if self.learned_variance else 1)
        out = self.final_layer(features, name="final")(h[:, -n:], c)
        return layers.token_answer(out, self.tokens.patch, self.learned_variance)
