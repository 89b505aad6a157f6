"""Embeddings of texts that were computed elsewhere, from one file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskdiff_jax.weights.files import BROKEN, READERS, as_float32

NAMES = ("text", "mask", "pooled")


class Embeddings(NamedTuple):
    """text [n, length, width] float32, mask [n, length] bool (True at tokens of the text), pooled [n, w] or None."""

    text: np.ndarray
    mask: np.ndarray
    pooled: np.ndarray | None = None


def read_embeddings(path: Path) -> Embeddings:
    """The arrays ``text``, ``mask`` (all True where it is absent) and ``pooled`` (or None) of an .npz or .safetensors.

    Raises ValueError, in one line, for a file of another kind (pickles among them, which can run code when they are
    read), a broken one, and arrays that are strange, missing, of other shapes or kinds, or not finite; OSError where it
    cannot be read.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"embeddings={str(path)!r}: choose a file of {', '.join(READERS)}")
    path.open("rb").close()  # an OSError that names it
    try:
        arrays = reader(path)
    except BROKEN as error:
        raise ValueError(f"embeddings={str(path)!r} cannot be read as {path.suffix}: {error}") from error
    try:
        return _checked(arrays)
    except ValueError as error:
        raise ValueError(f"embeddings={str(path)!r}: {error}") from error


def _checked(arrays: dict[str, np.ndarray]) -> Embeddings:
    if strange := sorted(arrays.keys() - set(NAMES)):
        raise ValueError(f"{strange[0]} is none of {', '.join(NAMES)}")
    if "text" not in arrays:
        raise ValueError("there is no text [n, length, width]")
    text = _floats(arrays, "text", 3)
    mask = arrays.get("mask", np.ones(text.shape[:2], bool))
    if mask.dtype != bool:
        raise ValueError(f"mask holds {mask.dtype.name}, not bool")
    if mask.shape != text.shape[:2]:
        raise ValueError(f"mask has shape {list(mask.shape)}, not {list(text.shape[:2])} as text asks for")
    if "pooled" not in arrays:
        return Embeddings(text, mask)
    pooled = _floats(arrays, "pooled", 2)
    if len(pooled) != len(text):
        raise ValueError(f"pooled is of {len(pooled)} texts, text of {len(text)}")
    return Embeddings(text, mask, pooled)


def _floats(arrays: dict[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    array = as_float32(name, arrays[name])
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{name} has shape {list(array.shape)}, not {axes} axes with something in each")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array
