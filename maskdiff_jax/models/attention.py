"""Attention beyond `layers.Attention`: to condition tokens, and with learned biases by relative position."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.models import kernels, layers


class CrossAttention(nn.Module):
    """From the tokens of an image to condition tokens, with one fused projection to keys and values.

    ``tokens`` may be ``x`` itself. ``mask`` is False at condition tokens that nobody attends to; where it is False at
    all of an image's, the attended value is 0 and only the bias of the output is left. A single token is added as it is
    projected, whatever the queries: those then have no gradient. ``bias`` and ``kernel_init`` are of the queries, keys
    and values, ``out_init`` of the output's kernel.
    """

    heads: int
    dtype: DTypeLike = "float32"
    bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k w"], tokens: Float[Array, "b m d"], mask: Bool[Array, "b m"] | None = None
    ) -> Float[Array, "b k w"]:
        b, k, width = x.shape
        project = partial(layers.linear, dtype=self.dtype, bias=self.bias, kernel_init=self.kernel_init)
        query = project(x, width, name="query").reshape(b, k, self.heads, -1).transpose(0, 2, 1, 3)
        pair = project(tokens, 2 * width, name="key_value")
        pair = pair.reshape(b, tokens.shape[1], 2, self.heads, width // self.heads)
        key, value = pair.transpose(2, 0, 3, 1, 4)
        h = kernels.attend(query, key, value, mask, kernel=self.kernel).transpose(0, 2, 1, 3).reshape(b, k, width)
        if mask is not None:  # a softmax over nothing is uniform, not 0
            h = jnp.where(jnp.any(mask, axis=1)[:, None, None], h, 0)
        return layers.linear(h, width, dtype=self.dtype, kernel_init=self.out_init, name="out")


class RelativeAttention(nn.Module):
    """`layers.Attention` with a learned bias on each logit, by head and by the offset between query and key.

    ``grid`` is that of the tokens; the table [2R - 1, 2C - 1, heads] is that of a ``trained`` grid of R × C, or of
    ``grid`` where it is None, and `relative_bias` resamples it. Tokens before the image's have no place: bias 0.
    Bao et al. 2022 (BEiT); the table starts as N(0, 0.02).
    """

    heads: int
    grid: tuple[int, int]
    trained: tuple[int, int] | None = None
    dtype: DTypeLike = "float32"
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b mk w"], ids: Int[Array, "#b k"], mask: Bool[Array, "b mk"] | None = None
    ) -> Float[Array, "b mk w"]:
        width = x.shape[-1]
        rows, columns = self.trained or self.grid
        table = self.param("table", layers.embedding_init, (2 * rows - 1, 2 * columns - 1, self.heads))
        before = x.shape[1] - ids.shape[1]
        bias = jnp.pad(relative_bias(table, ids, self.grid), ((0, 0), (0, 0), (before, 0), (before, 0)))

        qkv = layers.linear(x, 3 * width, dtype=self.dtype, name="qkv")
        h = layers.attend(qkv, self.heads, mask, bias, self.kernel)
        return layers.linear(h, width, dtype=self.dtype, name="out")


def relative_bias(
    table: Float[Array, "r c heads"], ids: Int[Array, "b k"], grid: tuple[int, int]
) -> Float[Array, "b heads k k"]:
    """The entries of ``table`` at the offsets (query - key) of the tokens ``ids`` of ``grid``, for each image.

    ``table`` [2R - 1, 2C - 1, heads] holds the offsets of an R × C grid, the offset 0 in the middle. Where ``grid`` is
    another, it is read by linear interpolation at the offsets in units of R × C cells, and at its border beyond it.
    """
    trained = ((table.shape[0] + 1) // 2, (table.shape[1] + 1) // 2)
    if trained != grid:
        rows, columns = map(_resampling, grid, trained)
        table = jnp.einsum("ir,jc,rch->ijh", rows, columns, table, precision="highest")
    row, column = (
        place[:, :, None] - place[:, None, :] + n - 1 for place, n in zip(_places(ids, grid), grid, strict=True)
    )
    return jnp.moveaxis(table[row, column], -1, 1)


def _places(ids: Int[Array, "b k"], grid: tuple[int, int]) -> tuple[Int[Array, "b k"], Int[Array, "b k"]]:
    """The row and the column of each token."""
    return ids // grid[1], ids % grid[1]


def _resampling(n: int, trained: int) -> np.ndarray:
    """[2n - 1, 2·trained - 1]: resamples from the offsets between ``trained`` cells to those between n of a side."""
    places = np.clip(np.arange(1 - n, n) * (trained / n), 1 - trained, trained - 1)
    distance = np.abs(places[:, None] - np.arange(1 - trained, trained)[None, :])
    return np.maximum(0, 1 - distance).astype(np.float32)
