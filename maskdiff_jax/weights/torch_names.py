"""One array, two conventions: the paths and axes of a Flax network, and the names and axes of PyTorch's state dicts.

The networks that stand in for published ones are laid out as those are: module for module. So the correspondence is
that of a module's path, which ``rename`` gives ("down_0/conv" -> "down_blocks.0.conv"), and the rest is the same for
all: ``kernel`` [in, out] is ``weight`` [out, in], ``kernel`` [h, w, in, out] is ``weight`` [out, in, h, w], ``scale``
and ``embedding`` are ``weight``, and every other leaf keeps its name and its axes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskdiff_jax.train.digest import flatten, nested
from maskdiff_jax.weights.files import as_float32, check_shapes

Rename = Callable[[str], str]

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def torch_name(path: str, rename: Rename) -> str:
    """The name in a state dict of the leaf at ``path`` ("down_0/conv/kernel")."""
    module, _, leaf = path.rpartition("/")
    parts = [rename(module)] if module else []
    return ".".join([*parts, _LEAVES.get(leaf, leaf)])


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Any, rename: Rename, source: str) -> dict[str, Any]:
    """The parameters of a Flax network, float32, from a PyTorch state dict.

    Args:
      tensors: NumPy arrays by PyTorch's names.
      shapes: the tree of the network's parameters, of anything that has a shape (`jax.eval_shape` of its init).
      rename: the PyTorch name of the module at a path of that tree.
      source: what a refusal calls the tensors, in the plural.

    Raises ValueError, in one line, for missing or strange names, other shapes and arrays that are not floats.
    """
    leaves = flatten(shapes)
    names = {path: torch_name(path, rename) for path in leaves}
    wanted = {names[path]: _to_torch_axes(path, np.empty(leaf.shape, "V0")).shape for path, leaf in leaves.items()}
    check_shapes(tensors, wanted, source)
    arrays = {path: _from_torch_axes(path, as_float32(name, tensors[name])) for path, name in names.items()}
    return nested({path: np.ascontiguousarray(array) for path, array in arrays.items()})


def to_torch(params: Any, rename: Rename) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a Flax network: the inverse of `from_torch`, bit for bit."""
    return {
        torch_name(path, rename): np.ascontiguousarray(_to_torch_axes(path, np.asarray(leaf)))
        for path, leaf in flatten(params).items()
    }


def _to_torch_axes(path: str, array: np.ndarray) -> np.ndarray:
    return array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0)) if _turned(path, array) else array


def _from_torch_axes(path: str, array: np.ndarray) -> np.ndarray:
    return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0)) if _turned(path, array) else array


def _turned(path: str, array: np.ndarray) -> bool:
    return path.endswith("kernel") and array.ndim in (2, 4)
