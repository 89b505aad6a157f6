"""The peer's training step and sampler: the work of ours, in plain PyTorch."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.peers.layers import patchify, take, unpatchify
from benchmarks.peers.setups import Recipe, Setup


class Draws(NamedTuple):
    """The random choices of a step: t [b] in [0, 1], noise of the images' shape, visible ids [b, k] or None for all."""

    t: Tensor
    eps: Tensor
    visible: Tensor | None


def draw(setup: Setup, image: Tensor) -> Draws:
    """Fresh choices for a batch, uniform t and visible tokens without replacement."""
    b, visible = image.shape[0], None
    if setup.kept < setup.tokens:
        order = torch.rand(b, setup.tokens, device=image.device).argsort(dim=1)
        visible = order[:, : setup.kept].sort(dim=1).values
    return Draws(torch.rand(b, device=image.device), torch.randn_like(image), visible)


def flow_matching_loss(network: nn.Module, patch: int, image: Tensor, label: Tensor, draws: Draws) -> Tensor:
    """Mean of (network(x_t) - (eps - x))² over the visible tokens, x_t = (1 - t)·x + t·eps (Lipman et al. 2022)."""
    t = draws.t[:, None, None, None]
    out = network(torch.lerp(image, draws.eps, t), draws.t, label, draws.visible)
    return (out.float() - take(patchify(draws.eps - image, patch), draws.visible)).square().mean()


class Training:
    """Forward, backward, clipping, AdamW and average of one network; ``step(image, label, draws)`` returns the loss.

    Clipping, the fused optimiser and the average over lists of tensors are PyTorch's own. It has no guard against
    gradients that are not finite and no norm of the parameters, which ours has.

    compiled: the loss runs through `torch.compile`; mixed: under autocast to bfloat16.
    """

    def __init__(self, network: nn.Module, patch: int, recipe: Recipe, compiled: bool = False, mixed: bool = False):
        self.network, self.patch, self.recipe, self.mixed = network, patch, recipe, mixed
        self.loss: Callable[..., Tensor] = torch.compile(flow_matching_loss) if compiled else flow_matching_loss
        self.parameters = list(network.parameters())
        self.device = self.parameters[0].device.type
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            recipe.rate,
            (recipe.b1, recipe.b2),
            recipe.eps,
            recipe.weight_decay,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.count = 0

    def step(self, image: Tensor, label: Tensor, draws: Draws) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.mixed):
            loss = self.loss(self.network, self.patch, image, label, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        rate = max(1 - self.recipe.decay, 9 / (10 + self.count))  # as ours warms up
        new = [p.detach() for p in self.parameters]
        torch._foreach_lerp_(self.average, new, rate)  # pyright: ignore[reportPrivateImportUsage]
        self.count += 1
        return loss.detach()


def guided(network: Callable[..., Tensor], scale: float) -> Callable[..., Tensor]:
    """Classifier-free guidance, both halves in one doubled batch (Ho & Salimans 2022); the network itself at 1."""
    if scale == 1:
        return network

    def both(x: Tensor, level: Tensor, label: Tensor, visible: None) -> Tensor:
        labels = torch.cat([label, torch.full_like(label, -1)])
        out, free = network(torch.cat([x, x]), torch.cat([level, level]), labels, visible).chunk(2)
        return torch.lerp(free, out, scale)

    return both


@torch.inference_mode()
def euler(network: Callable[..., Tensor], patch: int, times: Sequence[float], x: Tensor, label: Tensor) -> Tensor:
    """Images from noise x [b, h, w, c] along dx/dt = network(x, t), t running down ``times`` to 0."""
    for t, s in itertools.pairwise(times):
        velocity = network(x, x.new_full((len(x),), t), label, None)
        x = x + (s - t) * unpatchify(velocity.float(), patch, x.shape[1] // patch)
    return x
