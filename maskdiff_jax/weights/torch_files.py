"""Arrays from a file that PyTorch saved, read without PyTorch and without running anything that the file says.

Such a file is a pickle, which may name any function to be called. Here it can build dicts of tensors from raw numbers
and nothing else. Both layouts are read: the zip archive of torch ≥ 1.6, and the pickles in a row of those before it, to
which weights published until July 2020 belong.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SUFFIXES = (".pt", ".pth")  # of such files
DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
MAGIC = 0x1950A86A20F9469CFC6C  # the first number of the layout before the archive
LAYOUT = 1001  # its only version


class Storage(NamedTuple):
    """``numel`` numbers in a row, of which a file keeps the bytes under ``key``."""

    dtype: str
    key: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that knows dicts, storages and the function that makes tensors of these."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in DTYPES:
            return name
        raise ValueError(f"it asks for {module}.{name}, and only tensors are read")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or dtype not in DTYPES or any(part is not None for part in view):
            raise ValueError(f"it refers to {kind!r} of {dtype!r}, and only whole storages are read")
        return Storage(str(dtype), str(key), int(numel))


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file: see `read_tensors`, whose refusals have its name before them. OSError: it is not read."""
    try:
        return read_tensors(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name. ``data`` is the file.

    Raises ValueError, in one line, for a file that is not of this kind or holds anything but a dict of tensors; what it
    names is never imported.
    """
    try:
        archive = zipfile.is_zipfile(io.BytesIO(data))
        tensors, numbers = _from_archive(data) if archive else _from_pickles(data)
        return {name: _array(tensor, numbers) for name, tensor in tensors.items()}
    except ValueError:
        raise
    except Exception as error:  # a pickle that is broken, or made to break, raises anything
        raise ValueError(f"it is no file of tensors ({type(error).__name__})") from error


def _from_archive(data: bytes) -> tuple[dict[str, Tensor], Callable[[Storage], bytes]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is a zip file without a data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    tensors = _tensors(TensorUnpickler(io.BytesIO(archive.read(pickles[0]))).load())
    return tensors, lambda storage: archive.read(f"{root}data/{storage.key}")


def _from_pickles(data: bytes) -> tuple[dict[str, Tensor], Callable[[Storage], bytes]]:
    file = io.BytesIO(data)
    magic, layout, system = (TensorUnpickler(file).load() for _ in range(3))
    if magic != MAGIC or layout != LAYOUT or not system["little_endian"]:
        raise ValueError("it is a pickle, but not one of torch's on a little-endian machine")
    tensors = _tensors(TensorUnpickler(file).load())
    sizes = {tensor.storage.key: _bytes(tensor.storage) for tensor in tensors.values()}
    keys, starts, at = TensorUnpickler(file).load(), {}, file.tell()
    for key in keys:  # of each storage: how many numbers, then these
        starts[key] = at + 8
        at += 8 + sizes[key]
    return tensors, lambda storage: data[starts[storage.key] : starts[storage.key] + _bytes(storage)]


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        raise ValueError(f"it holds a {type(value).__name__}, not a dict of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"under {name!r} it holds a {type(tensor).__name__}, not a tensor")
    return {str(name): tensor for name, tensor in value.items()}


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Tensor:
    """In place of ``torch._utils._rebuild_tensor_v2``; what follows says whether it has a gradient, and hooks."""
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("it holds a tensor that is not a view of a storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _array(tensor: Tensor, numbers: Callable[[Storage], bytes]) -> np.ndarray:
    storage, offset, shape, strides = tensor
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    flat = np.frombuffer(numbers(storage), DTYPES[storage.dtype])
    if min((0, offset, *shape, *strides)) < 0 or (0 not in shape and max(last, prod(shape) - 1) >= len(flat)):
        raise ValueError(f"a tensor of shape {list(shape)} reaches beyond its {len(flat)} numbers")
    view = np.lib.stride_tricks.as_strided(
        flat[offset:], shape, [stride * flat.itemsize for stride in strides], writeable=False
    )
    return view.copy()


def _bytes(storage: Storage) -> int:
    return storage.numel * DTYPES[storage.dtype].itemsize
