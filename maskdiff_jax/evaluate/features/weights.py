"""Weights of a network from a local file: flat names such as "Mixed_5b/branch1x1/conv/kernel" and float arrays.

The file is an .npz, or in the safetensors format (eight bytes of length, a JSON header, the bytes of the arrays).
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}


def read_weights(path: Path, sha256: str = "") -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file by name, float32, and the SHA-256 of the file, in hexadecimal.

    Raises ValueError, in one line, for a file of another kind, a broken one, and for a digest other than ``sha256``,
    which may be cut short ("" accepts any); OSError where it cannot be read.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"weights={str(path)!r}: choose a file of {', '.join(READERS)}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(sha256.lower()):
        raise ValueError(f"weights={str(path)!r} have the SHA-256 {digest}, not {sha256}")
    try:
        arrays = reader(data)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise ValueError(f"weights={str(path)!r} cannot be read as {path.suffix}: {error}") from error
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}, digest


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)

    def array(entry: dict[str, Any]) -> np.ndarray:
        begin, end = entry["data_offsets"]
        return np.frombuffer(data[start + begin : start + end], DTYPES[entry["dtype"]]).reshape(entry["shape"])

    return {name: array(entry) for name, entry in header.items()}


READERS: dict[str, Callable[[bytes], dict[str, np.ndarray]]] = {".npz": read_npz, ".safetensors": read_safetensors}


def check_shapes(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ValueError, in one line, unless ``arrays`` have the names and shapes ``wanted``."""
    for word, names in (("lack", wanted.keys() - arrays.keys()), ("have", arrays.keys() - wanted.keys())):
        if names:
            strange = "" if word == "lack" else ", which the network does not have"
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{source} {word} {min(names)}{more}{strange}")
    for name, shape in wanted.items():
        if arrays[name].shape != tuple(shape):
            raise ValueError(f"{source}: {name} has shape {list(arrays[name].shape)}, not {list(shape)}")
