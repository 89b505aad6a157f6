"""mmDiT: image and condition tokens in two streams with joint attention (Esser et al. 2024, arXiv 2403.03206, §4)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models import kernels, layers
from maskdiff_jax.models.conditioning import Context
from maskdiff_jax.models.dit import PRESETS, Transformer, transformer
from maskdiff_jax.models.sizes import preset_sizes
from maskdiff_jax.models.stack import Stack, numbered
from maskdiff_jax.types import CondShape, Model


def mmdit(
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
    """An mmDiT for images of ``image_shape`` (h, w, c); with ``classes`` = 0 it is unconditional.

    ``classes`` is their number, or the shape of all conditions that the data carry.

    The tokens of the image and those of the conditions have weights of their own in every block and meet in attention.
    The last block needs of the condition tokens their keys and values alone, so it has weights for no more (the
    released SD3 also keeps their queries). Without condition tokens there is no second stream.

    Only the visible tokens are embedded and computed: ``apply(..., visible=ids)`` answers for ``ids`` [b, k] with a
    prediction [b, k, p, p, c], float32. A fresh network predicts exactly 0.

    Args:
      preset: 'S', 'B', 'L' or 'XL', the sizes of the DiT of that name; ``width``, ``depth`` and ``heads`` override its
        entries. SD3 itself grows by depth = heads, width = 64·depth. The sizes of the mmDiT-XL/2 of Berrada Ifriqi et
        al. 2024 are not specified by the paper.
      patch: side of a patch; must divide the image.
      mlp_ratio: hidden units of the MLPs per unit of width.
      learned_variance: also return ``variance`` = (v + 1) / 2 clipped to [0, 1], v being a second head. iDDPM (Nichol &
        Dhariwal 2021, §3.1) leaves v unclipped; where the clip binds, v receives no gradient.
      level_scale: factor on the level before its sinusoidal features: 1000 for a level in [0, 1], 1 for 0..T-1.
      trained_grid: rows and columns of the tokens that the weights were trained on, where they come from a run at
        another resolution: positions are interpolated into it. None counts on (extrapolates).
      conditioning: members of `CONDITIONINGS` with their options, as ``{"label_token": {}}``; by default the label as a
        token where there are classes. Vectors join the level's and modulate both streams.
      attention: 'auto', or one of `kernels.KERNELS` where the machine has it, as 'xla' or 'cudnn' (see `kernels`).
      remat: what the backward pass computes again instead of keeping it: 'none', 'dots' (all but the products with
        kernels) or 'full' (the whole of each block), for memory.
      scan: compile blocks that are alike once, as one loop over them, for the time of compiling a deep network.
      dtype: of the arithmetic and of the residual streams, 'float32' or 'bfloat16'; parameters, norms, softmax and the
        output are float32.

    Raises ValueError where an option has no such choice or sizes do not divide.
    """
    asked = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    scales = {"mlp_ratio": mlp_ratio, "level_scale": level_scale}
    options = {**scales, "learned_variance": learned_variance, "trained_grid": trained_grid, "dtype": dtype}
    options |= {"kernel": attention, "stack": Stack(remat, scan)}
    size = preset_sizes("mmdit", PRESETS, preset, **asked, **scales)
    return transformer(MMDiT, image_shape, classes, patch, conditioning, label="label_token", **size, **options)


class Enter(nn.Module):
    """What a stream brings to the joint attention: its queries (or none), keys and values, [b, heads, n, w / heads].

    The tokens are normalised and modulated by the condition vector; queries and keys are divided by their root mean
    square in each head and scaled (§5.3.2: keeps the logits bounded in half precision), in float32.
    """

    heads: int
    queries: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"], c: Float[Array, "b w"]) -> list[Float[Array, "b heads n hw"]]:
        b, n, width = x.shape
        shift, scale = layers.Modulation(2, self.dtype, name="modulation")(c)
        h = layers.ModulatedNorm(self.dtype, name="norm")(x, shift, scale)
        names = ("query", "key", "value")[0 if self.queries else 1 :]
        h = layers.linear(h, len(names) * width, dtype=self.dtype, name="project")
        *compared, value = h.reshape(b, n, len(names), self.heads, -1).transpose(2, 0, 3, 1, 4)
        norms = [nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32, name=f"{name}_norm") for name in names[:-1]]
        return [norm(part).astype(self.dtype) for norm, part in zip(norms, compared, strict=True)] + [value]


class Leave(nn.Module):
    """What a stream does with the attended values ``h`` [b, n, w]: add them, then an MLP, each one gated."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n w"], h: Float[Array, "b n w"], c: Float[Array, "b w"]
    ) -> Float[Array, "b n w"]:
        gate, mlp_shift, mlp_scale, mlp_gate = layers.Modulation(4, self.dtype, name="modulation")(c)
        x = x + gate * layers.linear(h, x.shape[-1], dtype=self.dtype, name="out")
        h = layers.ModulatedNorm(self.dtype, name="norm")(x, mlp_shift, mlp_scale)
        return x + mlp_gate * layers.Mlp(self.hidden, self.dtype, name="mlp")(h)


class Block(nn.Module):
    """One joint attention over the tokens of the image and of the context; each stream has weights of its own.

    ``mask`` is False at context tokens that nobody attends to. The ``last`` block returns the context as it came.
    """

    heads: int
    hidden: int
    dtype: DTypeLike
    kernel: str = "auto"
    last: bool = False

    @nn.compact
    def __call__(
        self,
        streams: tuple[Float[Array, "b k w"], Float[Array, "b m w"] | None],
        c: Float[Array, "b w"],
        mask: Bool[Array, "b m"] | None = None,
    ) -> tuple[Float[Array, "b k w"], Float[Array, "b m w"] | None]:
        x, context = streams
        b, k, width = x.shape
        parts = [Enter(self.heads, True, self.dtype, name="image_in")(x, c)]
        if context is not None:
            parts.append(Enter(self.heads, not self.last, self.dtype, name="context_in")(context, c))
        key, value = (jnp.concatenate([part[i] for part in parts], axis=2) for i in (-2, -1))
        query = jnp.concatenate([part[0] for part in parts if len(part) == 3], axis=2)
        seen = None if mask is None else jnp.concatenate([jnp.ones((b, k), bool), mask], axis=1)
        h = kernels.attend(query, key, value, seen, kernel=self.kernel).transpose(0, 2, 1, 3).reshape(b, -1, width)

        x = Leave(self.hidden, self.dtype, name="image_out")(x, h[:, :k], c)
        if context is not None and not self.last:
            context = Leave(self.hidden, self.dtype, name="context_out")(context, h[:, k:], c)
        return x, context


class MMDiT(Transformer):
    """See `mmdit`, which checks the options."""

    def blocks(self, h: Float[Array, "b k w"], c: Float[Array, "b w"], context: Context) -> Float[Array, "b k w"]:
        tokens = None if context.tokens is None else context.tokens.astype(self.dtype)
        block = partial(Block, self.heads, int(self.mlp_ratio * self.width), self.dtype, self.kernel)
        *names, last = numbered("block", self.depth)
        streams, _ = self.stack(self, block, names, (h, tokens), c, context.mask)
        streams, _ = self.stack(self, partial(block, last=True), [last], streams, c, context.mask)
        return streams[0]
