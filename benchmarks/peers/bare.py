"""Stand-ins for packages that a bare machine lacks and that timing a step does not use: importing them works.

The library's modules import them at their top, for shapes in annotations or for files that are not read here. Whatever
is installed is left as it is. None of them may be one that jax or PyTorch would use if it were there.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PACKAGES = ("PIL", "array_record", "jaxtyping")


class Absent(type):
    """The type of a missing package's names: they stand in annotations, ``Float[Array, "b c"]``, and are not used."""

    def __getattr__(cls, name: str) -> Any:
        return absent(name, f"{cls.__module__}.{cls.__name__}")

    def __getitem__(cls, shape: Any) -> Any:
        return Any

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ModuleNotFoundError(f"{cls.__module__} is not installed, and {cls.__name__} is asked for")


def absent(name: str, module: str) -> Any:
    """Raises AttributeError for what Python itself looks for."""
    if name.startswith("__"):
        raise AttributeError(name)
    return Absent(name, (), {"__module__": module})


class StandIn(ModuleType):
    """A missing package, or a module of one."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        return absent(name, self.__name__)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last, and so finds only what nothing else has found."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] in PACKAGES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Let the missing ones of `PACKAGES` be imported, by whatever is imported from now on."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
