"""What the PyTorch peers share: images as tokens, features of the level, attention.

Images are [b, h, w, c] as ours, so that both sides are fed the same arrays.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def patchify(x: Tensor, patch: int) -> Tensor:
    """[b, h, w, c] -> [b, n, patch·patch·c], row by row; inside a patch (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(2, 3)
    return x.reshape(b, -1, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, rows: int) -> Tensor:
    """The inverse of `patchify` for a grid of that many rows."""
    b, n, features = tokens.shape
    c = features // patch**2
    x = tokens.reshape(b, rows, n // rows, patch, patch, c).transpose(2, 3)
    return x.reshape(b, rows * patch, -1, c)


def take(tokens: Tensor, ids: Tensor | None) -> Tensor:
    """The tokens [b, k, f] of [b, n, f] that ``ids`` [b, k] names; all of them where it is None."""
    if ids is None:
        return tokens
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def take_rows(table: Tensor, ids: Tensor | None) -> Tensor:
    """Rows [b, k, f] of a table [n, f] for ``ids`` [b, k]; [1, n, f] where it is None."""
    return table[None] if ids is None else functional.embedding(ids, table)


def features(x: Tensor, width: int) -> Tensor:
    """[cos(x·w_i), sin(x·w_i)] of x [b] with w_i = 10000^(-2i / width), i < width/2 -> [b, width], float32.

    Vaswani et al. 2017, with the cosines first (DiT, Peebles & Xie 2023).
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=x.device, dtype=torch.float64) * (-math.log(10_000) / half))
    angles = x.float()[:, None] * rates.float()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_positions(width: int, rows: int, columns: int) -> Tensor:
    """Fixed positions [rows·columns, width]: half of the width for the column, half for the row, each [sin, cos].

    MAE and DiT (He et al. 2022; Peebles & Xie 2023).
    """
    quarter = width // 4
    rates = torch.exp(torch.arange(quarter, dtype=torch.float64) * (-math.log(10_000) / quarter))
    place = torch.arange(rows * columns)
    angles = [axis[:, None] * rates for axis in (place % columns, place // columns)]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1).float()


class Label(nn.Embedding):
    """One row per class and one more for the null label, any negative number: [b] -> [b, width]."""

    def __init__(self, classes: int, width: int):
        super().__init__(classes + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        return super().forward(torch.where(label < 0, self.num_embeddings - 1, label))


class Attention(nn.Module):
    """Self-attention [b, k, width] by PyTorch's fused kernel, one projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, qkv_bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, k, width = x.shape
        query, key, value = self.qkv(x).reshape(b, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        h = functional.scaled_dot_product_attention(query, key, value)
        return self.out(h.transpose(1, 2).reshape(b, k, width))
