"""U-ViT without its final convolution in plain PyTorch, from the papers (Bao et al. 2023; MaskDM, Lei et al. 2023)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.layers import Attention, Label, features, patchify, take, take_rows


class UViT(nn.Module):
    """``network(x [b, h, w, c], level [b] in [0, 1], label [b], visible [b, k] or None) -> [b, k, patch·patch·c]``.

    The level and the label are tokens before the image's. depth//2 blocks, one in the middle, and depth//2 that first
    mix in the output of their twin.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        rows, columns, size = shape[0] // patch, shape[1] // patch, patch**2 * shape[2]
        self.patch, self.width = patch, width
        self.label = Label(classes, width)
        self.extra_positions = nn.Parameter(torch.zeros(2, width))
        self.embed = nn.Linear(size, width)
        self.positions = nn.Parameter(torch.zeros(rows, columns, width))
        self.ins = nn.ModuleList(Block(width, heads, skip=False) for _ in range(depth // 2))
        self.middle = Block(width, heads, skip=False)
        self.outs = nn.ModuleList(Block(width, heads, skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size)

    def forward(self, x: Tensor, level: Tensor, label: Tensor, visible: Tensor | None = None) -> Tensor:
        extra = torch.stack([features(1000 * level, self.width), self.label(label)], dim=1) + self.extra_positions
        positions = take_rows(self.positions.flatten(0, 1), visible)
        h = torch.cat([extra, self.embed(take(patchify(x, self.patch), visible)) + positions], dim=1)
        skips = []
        for block in self.ins:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block in self.outs:
            h = block(h, skips.pop())
        return self.head(self.norm(h[:, extra.shape[1] :]))


class Block(nn.Module):
    """Attention, then MLP, each after a layer norm; before them, with ``skip``, a linear layer of x and the skip."""

    def __init__(self, width: int, heads: int, skip: bool):
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, qkv_bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_hidden = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat([x, skip], dim=2))
        x = x + self.attention(self.norm(x))
        return x + self.mlp_out(functional.gelu(self.mlp_hidden(self.mlp_norm(x))))
