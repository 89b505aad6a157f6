"""DiT in plain PyTorch, from the paper (Peebles & Xie 2023, arXiv 2212.09748): adaLN-zero blocks over patches."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.layers import Attention, Label, features, grid_positions, patchify, take, take_rows

FEATURES = 256  # of the noise level


class DiT(nn.Module):
    """``network(x [b, h, w, c], level [b] in [0, 1], label [b], visible [b, k] or None) -> [b, k, patch·patch·c]``.

    A label below 0 is the null label. ``visible`` names the tokens that are embedded and answered.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        rows, columns, size = shape[0] // patch, shape[1] // patch, patch**2 * shape[2]
        self.patch = patch
        self.embed = nn.Linear(size, width)
        self.level = LevelMlp(width)
        self.label = Label(classes, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final = Final(width, size)
        self.register_buffer("positions", grid_positions(width, rows, columns), persistent=False)

    def forward(self, x: Tensor, level: Tensor, label: Tensor, visible: Tensor | None = None) -> Tensor:
        c = self.level(level) + self.label(label)
        positions = take_rows(self.get_buffer("positions"), visible)
        h = self.embed(take(patchify(x, self.patch), visible)) + positions
        for block in self.blocks:
            h = block(h, c)
        return self.final(h, c)


class LevelMlp(nn.Module):
    """The level [b] in [0, 1] as a vector [b, width]: features of 1000·level, then two layers with a SiLU between."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(FEATURES, width)
        self.out = nn.Linear(width, width)

    def forward(self, level: Tensor) -> Tensor:
        return self.out(functional.silu(self.hidden(features(1000 * level, FEATURES))))


class Modulation(nn.Module):
    """``count`` vectors [b, 1, width] from the condition vector [b, width]."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        return self.linear(functional.silu(c))[:, None, :].chunk(self.count, dim=2)


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.gelu(self.hidden(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP; each shifted and scaled before and gated after by the condition vector."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention = Attention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(c)
        x = torch.addcmul(x, gate, self.attention(modulated(x, shift, scale)))
        return torch.addcmul(x, mlp_gate, self.mlp(modulated(x, mlp_shift, mlp_scale)))


class Final(nn.Module):
    def __init__(self, width: int, size: int):
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.linear = nn.Linear(width, size)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(modulated(x, *self.modulation(c)))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [b, k, width] without parameters, then ·(1 + scale) + shift, both [b, 1, width]."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)
