"""What the command line asks of its machine before jax touches a device: kept memory, kept programs, Eigen's products.

The first two change no number, the last one how sums are rounded. A library user who wants them calls them: importing
the library changes nothing.
"""

import ctypes
import hashlib
import os
import sys
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

_ACCELERATORS = ("libtpu", "jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin")
_MALLOPT = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}  # malloc.h
_PRODUCTS = "--xla_cpu_experimental_ynn_fusion_type"
_KNOWN_IN = ((0, 10), (0, 13))  # versions of jaxlib from, and below: an unknown flag would end the process
_LARGEST_CACHE = 4 << 30  # bytes; what was used least recently goes first


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Let glibc keep the memory that is freed, for a process that computes on the CPU; whether it does.

    XLA allocates the temporary memory of a program anew at every call, on a CPU through malloc, which hands so large a
    block back to the system each time, and a training step spends a good part of its time in page faults. The price is
    that the process never gets smaller, and that all threads share one arena, which is why it must be asked for before
    jax starts its threads, at the first look at a device. Left alone: other systems, processes with an accelerator, and
    who sets MALLOC_… or GLIBC_TUNABLES in the environment ``environ``.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environ):
        return False
    if not _on_cpu(environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library may have none
    return mallopt is not None and all([mallopt(option, value) for option, value in _MALLOPT.values()])


def multiply_with_eigen(environ: MutableMapping[str, str]) -> bool:
    """Have XLA take matrix products on a CPU through Eigen instead of YNNPACK, by ``XLA_FLAGS``; whether it does.

    Eigen's are up to a sixth faster on the processor that it was measured on (benchmarks/LOG.md); both sum in float32,
    in another order. Left alone: processes with an accelerator, a user who sets this flag, and versions of jaxlib in
    which it was not tried.
    """
    flags, version = environ.get("XLA_FLAGS", ""), tuple(map(int, jaxlib.version.__version__.split(".")[:2]))
    if _PRODUCTS in flags or not _on_cpu(environ) or not _KNOWN_IN[0] <= version < _KNOWN_IN[1]:
        return False
    environ["XLA_FLAGS"] = f"{flags} {_PRODUCTS}=-individual_dot".strip()
    return True


def keep_programs(cache: Path) -> None:
    """Have jax keep compiled programs below ``cache``, in one folder for each kind of processor.

    So the second start of a run compiles little. Who has set JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE
    to 0, keeps their choice. Programs that compile within a second are not worth a file, which is jax's own rule.
    """
    settings: Any = jax.config  # its settings have no types
    if settings.jax_compilation_cache_dir is None and settings.jax_enable_compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache / "programs" / _processor()))
        jax.config.update("jax_compilation_cache_max_size", _LARGEST_CACHE)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where this project keeps what can be made again: ``$XDG_CACHE_HOME/maskdiff_jax``, or below ``~/.cache``."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskdiff_jax"


def _on_cpu(environ: Mapping[str, str]) -> bool:
    """Whether a process of this environment computes on the CPU."""
    return environ.get("JAX_PLATFORMS", "") == "cpu" or not any(find_spec(name) for name in _ACCELERATORS)


def _processor() -> str:
    """The instructions of this processor, in short: a program that is compiled for more of them would crash here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return hashlib.sha256("\n".join([os.uname().machine, *features]).encode()).hexdigest()[:12]
