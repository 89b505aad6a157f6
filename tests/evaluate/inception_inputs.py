"""Weights and images for Inception from a seed: what a recorded answer was computed from."""

import zlib

import numpy as np

from maskdiff_jax.evaluate.features.inception import shapes

LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var", "kernel": "weight"}


def state_dict() -> dict[str, np.ndarray]:
    """Random weights under the names and axes of PyTorch; each array depends on its own name alone."""
    return {torch_name(name): draw(torch_name(name), torch_shape(shape)) for name, shape in shapes().items()}


def torch_name(name: str) -> str:
    *path, leaf = name.split("/")
    return ".".join([*path, LEAVES[leaf]])


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[h, w, in, out] -> [out, in, h, w], [in, out] -> [out, in]."""
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of a size at which activations neither vanish nor explode; variances around 1, and positive."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = random.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith(("bn.weight", "running_var")):
        return np.exp(values / 4)
    return values / 10


def images(*shape: int) -> np.ndarray:
    """Random pixels, uint8."""
    return np.random.default_rng(shape).integers(0, 256, shape, np.uint8)
