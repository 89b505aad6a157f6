"""Files as torch writes them, made without torch, and forgeries of them."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskdiff_jax.weights.torch_files import LAYOUT, MAGIC


class Call:
    """What pickles as a call of ``function(*arguments)`` at loading."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Named:
    """What pickles as a call of the function that ``text`` names, whether it exists or not."""

    def __init__(self, text, *arguments):
        self.text, self.arguments = text, arguments


class Pickler(pickle._Pickler):
    """Writes references to functions that are not here, and to storages, as torch does."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            module, name = obj.text.rsplit(".", 1)
            self.write(f"c{module}\n{name}\n".encode())
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.fields if isinstance(obj, Stored) else None


class Stored:
    def __init__(self, *fields):
        self.fields = fields


def dumped(value) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def archive(value, numbers=b"\0" * 24) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", dumped(value))
        zipped.writestr("archive/data/0", numbers)
    return file.getvalue()


def in_a_row(value, numbers=b"\0" * 24) -> bytes:
    parts = (MAGIC, LAYOUT, {"little_endian": True}, value, ["0"])
    return b"".join(map(dumped, parts)) + (6).to_bytes(8, "little") + numbers


def tensor(offset=0, shape=(2, 3), strides=(3, 1), dtype="FloatStorage", numel=6):
    kind = Stored("storage", dtype, "0", "cpu", numel)
    return Named("torch._utils._rebuild_tensor_v2", kind, offset, shape, strides, False, {})


def write_archive(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """The file of a state dict of float32 arrays."""
    value, file = {}, io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for number, (name, array) in enumerate(arrays.items()):
            strides = [stride // array.itemsize for stride in array.strides]
            kind = Stored("storage", "FloatStorage", str(number), "cpu", array.size)
            value[name] = Named("torch._utils._rebuild_tensor_v2", kind, 0, array.shape, tuple(strides), False, {})
            zipped.writestr(f"archive/data/{number}", array.tobytes())
        zipped.writestr("archive/data.pkl", dumped(value))
    path.write_bytes(file.getvalue())
    return path
