"""What is compared: networks by their sizes, batches, the optimiser of both. Needs neither JAX nor PyTorch."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Setup(NamedTuple):
    """One case. Sizes are those of the papers' tables; ``network`` is a name of `NETWORKS` on either side.

    size: keywords of both constructors, patch, width, depth and heads; masked: the share of tokens that a training step
    leaves out; steps and guidance: of sampling, a scale of 1 is none; options: further keywords of our constructor, as
    ``{"remat": "dots"}``.
    """

    title: str
    network: str
    size: Mapping[str, int]
    batch: int
    masked: float = 0.0
    shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 10
    steps: int = 10
    guidance: float = 1.0
    options: Mapping[str, Any] = {}

    @property
    def tokens(self) -> int:
        return self.shape[0] * self.shape[1] // self.size["patch"] ** 2

    @property
    def kept(self) -> int:
        """How many tokens a training step sees."""
        return self.tokens - int(self.masked * self.tokens)


class Recipe(NamedTuple):
    """AdamW after clipping by the global norm, at a constant rate, and an average of the parameters."""

    rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    decay: float = 0.9999


DIT_S = {"width": 384, "depth": 12, "heads": 6}
UVIT_S = {"width": 512, "depth": 13, "heads": 8}
SEED = 0  # of the parameters
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}  # of the arithmetic, by device

TRAINING = {
    "dit_s4": Setup("DiT-S/4, training step", "dit", {"patch": 4, **DIT_S}, 32),
    "uvit_s": Setup("U-ViT small, training step", "uvit", {"patch": 2, **UVIT_S}, 2),
    "dit_s4_masked": Setup("DiT-S/2, training step on 25 %", "dit", {"patch": 2, **DIT_S}, 32, masked=0.75),
}
SAMPLING = {"sampling": Setup("DiT-S/4, a call of the denoiser", "dit", {"patch": 4, **DIT_S}, 32)}
SETUPS = {**TRAINING, **SAMPLING}

# (rows, inner, columns): a square one, and those of the MLP of DiT-S/4 in its forward pass
SHAPES = ((1024, 1024, 1024), (2048, 384, 1536), (2048, 1536, 384))
PRODUCTS = {"×".join(map(str, shape)): shape for shape in SHAPES}


def repeats(shape: tuple[int, int, int]) -> int:
    """How often a timing takes a product: about 20 GFLOP."""
    rows, inner, columns = shape
    return max(1, round(1e10 / (rows * inner * columns)))
