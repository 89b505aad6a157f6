"""Files that a reader finds old or new, never half-written; and values as JSON holds them."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file in one stroke, by way of a temporary one beside it; makes the folder where it is missing.

    In a distributed run the first process alone writes: all share the folder, and have the same to say.
    """
    if jax.distributed.is_initialized() and jax.process_index() != 0:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of writing to an open file say which file it is: Python's own do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` (see `plain`) atomically as indented JSON."""
    write_atomically(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises ValueError, in one line, where it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def plain(value: Any) -> Any:
    """The value as JSON holds it: tuples become lists, arrays nested lists, NaN and infinities "nan", "inf" and "-inf".

    JSON has no such numbers; ``float("nan")`` reads them back. Raises TypeError for what is not data.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON data: {value!r} of type {type(value).__name__}")
