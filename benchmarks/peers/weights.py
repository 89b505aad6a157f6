"""Our parameters, or a gradient of theirs, as the state dict of a peer."""

import re
from typing import Any

import jax
import numpy as np
import torch

RENAMED = ((r"^conditions_label(_token)?/table/", "label/"), (r"\b(block|in|out)_(\d+)/", r"\1s/\2/"))
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def state_dict(params: Any) -> dict[str, torch.Tensor]:
    """The tensors, by the peer's names, of a tree in the shape of our parameters; matrices are transposed.

    A kernel of ours is [in, out], a weight of PyTorch's [out, in].
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return dict(_converted(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves)


def _converted(name: str, leaf: Any) -> tuple[str, torch.Tensor]:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    *modules, last = name.split("/")
    modules = [str(int(part)) if part.isdigit() else part for part in modules]  # "00" -> "0"
    array = np.array(leaf, np.float32)
    tensor = torch.from_numpy(array.T.copy() if last == "kernel" else array)
    return ".".join([*modules, LEAVES.get(last, last)]), tensor
