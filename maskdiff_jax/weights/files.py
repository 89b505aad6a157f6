"""Weights of a network from a local file: flat names such as "Mixed_5b/branch1x1/conv/kernel" and float arrays.

The file is an .npz or a .safetensors.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

FLOATS = ("float64", "float32", "float16", "bfloat16")
BROKEN = (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile, SafetensorError)


def read_weights(path: Path, sha256: str = "") -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file by name, float32, and the SHA-256 of the file, in hexadecimal.

    Raises ValueError, in one line, for a file of another kind, a broken one, and for a digest other than ``sha256``,
    which may be cut short ("" accepts any); OSError where it cannot be read.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"weights={str(path)!r}: choose a file of {', '.join(READERS)}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(sha256.lower()):
        raise ValueError(f"weights={str(path)!r} have the SHA-256 {digest}, not {sha256}")
    try:
        arrays = {name: as_float32(name, array) for name, array in reader(path).items()}
    except BROKEN as error:
        raise ValueError(f"weights={str(path)!r} cannot be read as {path.suffix}: {error}") from error
    return arrays, digest


def as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """A floating-point array as float32. Raises ValueError for other kinds."""
    if array.dtype.name not in FLOATS:
        raise ValueError(f"{name} holds {array.dtype.name}, not floating-point numbers")
    return np.asarray(array, np.float32)


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name. Raises ValueError for objects, `BROKEN` for what is no .npz."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": lambda path: read_npz(path.read_bytes()),
    ".safetensors": safetensors.numpy.load_file,
}


def check_shapes(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ValueError, in one line, unless ``arrays`` have the names and shapes ``wanted``.

    The line has the first five of the names that are missing or strange, and their count.
    """
    if missing := wanted.keys() - arrays.keys():
        raise ValueError(f"{source} lack {_some(missing)}")
    if strange := arrays.keys() - wanted.keys():
        raise ValueError(f"{source} have {_some(strange)}, which the network does not have")
    for name, shape in wanted.items():
        if arrays[name].shape != tuple(shape):
            raise ValueError(f"{source}: {name} has shape {list(arrays[name].shape)}, not {list(shape)}")


def _some(names: Iterable[str], count: int = 5) -> str:
    names = sorted(names)
    more = f" and {len(names) - count} more ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + more
