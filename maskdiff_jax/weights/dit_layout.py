"""What the formats of a DiT share: its facts, which networks a format can hold, and parameters under other names."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax.models.conditioning import conditions
from maskdiff_jax.models.dit import PRESETS, dit
from maskdiff_jax.models.sizes import cond_shape, preset_sizes
from maskdiff_jax.train.digest import flatten, nested
from maskdiff_jax.types import CondShape, Params
from maskdiff_jax.weights.files import check_shapes
from maskdiff_jax.weights.torch_names import from_torch, to_torch

_PATCHES = "embed/kernel"


class Facts(NamedTuple):
    """What `models.dit` is called with: ``dit(image_shape, classes, **options)``."""

    image_shape: tuple[int, int, int]
    classes: int | CondShape
    options: Mapping[str, Any]


class Names(NamedTuple):
    """The modules of a format: the prefix of a block, those in a block and those around them, by our paths."""

    blocks: str
    inner: Mapping[str, str]
    outer: Mapping[str, str]

    def __call__(self, path: str) -> str:
        block, _, rest = path.partition("/")
        if block.startswith("block_"):
            return f"{self.blocks}.{int(block.removeprefix('block_'))}.{self.inner[rest]}"
        return self.outer[path]


class Sizes(NamedTuple):
    """Those of a network that a format holds: its preset's, or what replaces them."""

    width: int
    depth: int
    heads: int
    patch: int
    learned_variance: bool


def sizes_of(facts: Facts, features: str) -> Sizes:
    """The sizes of a network that a format can hold in which the level has these ``features``.

    Raises ValueError, in one line, for another network, with what would make it one.
    """
    has, (height, width, _) = _arguments(facts), facts.image_shape
    sizes = preset_sizes("dit", PRESETS, has["preset"], width=has["width"], depth=has["depth"], heads=has["heads"])
    label = list(conditions(has["conditioning"], cond_shape(facts.classes), sizes["width"]))
    rows = (height // has["patch"], width // has["patch"])
    hidden = int(has["mlp_ratio"] * sizes["width"]) / sizes["width"]
    only_label = "the format has a label as a vector, and nothing else"
    wanted = {  # name -> value, what it must be, and what to do
        "conditioning": (label, ["label"], only_label if label else f"the network is unconditional, and {only_label}"),
        "image_shape": ((height, width), (height, height), "the format has square images only"),
        "level_features": (has["level_features"], features, f"train with config.model.level_features='{features}'"),
        "level_scale": (has["level_scale"], 1, "train with config.model.level_scale=1.0 on the inputs 'discrete'"),
        "mlp_ratio": (hidden, 4, "train with config.model.mlp_ratio=4.0"),
        "trained_grid": (tuple(has["trained_grid"] or rows), rows, "the format has no interpolated positions"),
    }
    for name, (value, must, hint) in wanted.items():
        if value != must:
            raise ValueError(f"{name}={value!r} cannot be exported: {hint}")
    return Sizes(**sizes, patch=has["patch"], learned_variance=has["learned_variance"])


def shapes_of(facts: Facts) -> dict[str, Any]:
    """The shape of each of the network's parameters, by its path."""
    return flatten(jax.eval_shape(dit(*facts[:2], **facts.options).init, jax.random.key(0)))


def leaves_of(params: Params, facts: Facts) -> dict[str, np.ndarray]:
    """The parameters of the network by their paths. Raises ValueError, in one line, for those of another."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    check_shapes(leaves, {path: leaf.shape for path, leaf in shapes_of(facts).items()}, "the parameters")
    return leaves


def to_names(leaves: Mapping[str, np.ndarray], facts: Facts, names: Names) -> dict[str, np.ndarray]:
    """The parameters, by their paths, as PyTorch's tensors under ``names``, the patches being cut by a convolution."""
    kernel = leaves[_PATCHES]
    return to_torch(nested({**leaves, _PATCHES: kernel.reshape(_kernel(facts, kernel.shape[1]))}), names)


def from_names(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Any], facts: Facts, names: Names, source: str
) -> Params:
    """The inverse of `to_names`, float32; ``source`` is what a refusal calls the tensors, in the plural.

    Raises ValueError, in one line, for missing and strange tensors and for those of another shape than `shapes_of`.
    """
    flat = shapes[_PATCHES].shape
    convolution = np.empty(_kernel(facts, flat[1]), "V0")
    leaves = flatten(from_torch(tensors, nested({**shapes, _PATCHES: convolution}), names, source))
    return nested({**leaves, _PATCHES: leaves[_PATCHES].reshape(flat)})


def _arguments(facts: Facts) -> dict[str, Any]:
    """What `models.dit` is called with, defaults and all."""
    given = inspect.signature(dit).bind(*facts[:2], **facts.options)
    given.apply_defaults()
    return given.arguments


def _kernel(facts: Facts, width: int) -> tuple[int, int, int, int]:
    """The shape of the linear layer on patches [p·p·c, w] as a convolution, [p, p, c, w]."""
    patch = _arguments(facts)["patch"]
    return patch, patch, facts.image_shape[-1], width
