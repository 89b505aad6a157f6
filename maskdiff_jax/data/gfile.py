"""What preparing a data set needs of TensorFlow: files, here through etils' epath (local paths, gs://, s3://)."""

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

from etils import epath

Path = str | PathLike


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Inside, whatever holds TFDS's lazily imported TensorFlow, as ``tf``, holds a stand-in with `tf.io.gfile` only.

    Any other attribute raises ModuleNotFoundError that says which. Nothing changes where TensorFlow is installed.
    """
    from tensorflow_datasets.core.download import downloader, extractor  # noqa: F401  (they hold it, too)
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    if importlib.util.find_spec("tensorflow"):
        yield
        return
    holders = [m for m in list(sys.modules.values()) if getattr(m, "__dict__", {}).get("tf") is tensorflow]
    with patched(holders, "tf", _STAND_IN):
        yield


@contextmanager
def patched(holders: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Inside, ``name`` is ``value`` in every one of ``holders``."""
    before = [(holder, getattr(holder, name)) for holder in holders]
    for holder, _ in before:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, old in before:
            setattr(holder, name, old)


class _Module:
    def __init__(self, path: str, **attributes: Any):
        self._path = path
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(f"{self._path}.{name} needs TensorFlow", name="tensorflow")


def gfile(name: Path, mode: str = "r") -> Any:
    return epath.Path(name).open(mode, **({} if "b" in mode else {"encoding": "utf-8"}))  # pyright: ignore


def exists(path: Path) -> bool:
    return epath.Path(path).exists()


def isdir(path: Path) -> bool:
    return epath.Path(path).is_dir()


def listdir(path: Path) -> list[str]:
    return [entry.name for entry in epath.Path(path).iterdir()]


def glob(pattern: Path) -> list[str]:
    parts = epath.Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?[]", part)), len(parts) - 1)
    return sorted(map(str, epath.Path(*parts[:fixed]).glob("/".join(parts[fixed:]))))


def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    entries = sorted(epath.Path(top).iterdir())
    folders = [entry for entry in entries if entry.is_dir()]
    yield str(top), [entry.name for entry in folders], [entry.name for entry in entries if entry not in folders]
    for folder in folders:
        yield from walk(folder)


def makedirs(path: Path) -> None:
    epath.Path(path).mkdir(parents=True, exist_ok=True)


def copy(src: Path, dst: Path, overwrite: bool = False) -> None:
    epath.Path(src).copy(dst, overwrite=overwrite)


_FUNCTIONS = (copy, exists, glob, isdir, listdir, makedirs, walk)
_GFILE = _Module("tf.io.gfile", GFile=gfile, **{function.__name__: function for function in _FUNCTIONS})
_STAND_IN = _Module("tf", io=_Module("tf.io", gfile=_GFILE), compat=_Module("tf.compat", as_text=os.fsdecode))
