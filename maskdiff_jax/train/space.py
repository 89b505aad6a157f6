"""What a state takes, and whether the disk has it."""

import shutil
from pathlib import Path
from typing import Any

import jax

from maskdiff_jax.train.verify import CheckpointError


def nbytes(state: Any) -> int:
    """The size of a state, concrete or abstract, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def require_space(path: str | Path, size: int) -> None:
    """Raise `CheckpointError` unless ``size`` bytes are free where ``path`` is, or would be created."""
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise CheckpointError(f"not enough disk for {path}: {size / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")
