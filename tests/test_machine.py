"""What the command line asks of its machine: freed memory is kept, compiled programs are found again."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from maskdiff_jax import machine
from tests.cli import ROOT

FAULTS = """
import os, resource, numpy as np
from maskdiff_jax import machine
kept = machine.keep_freed_memory(os.environ)
np.ones(1 << 26, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 26, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PRODUCTS = """
import os, jax, jax.numpy as jnp
from maskdiff_jax import machine
asked = machine.multiply_with_eigen(os.environ)
a = jnp.ones((256, 256))
print(asked, "ynn_fusion" in jax.jit(jnp.matmul).lower(a, a).compile().as_text())
"""
PROGRAMS = """
import sys, jax
from pathlib import Path
from maskdiff_jax import machine
machine.keep_programs(Path(sys.argv[1]))
print(jax.config.jax_compilation_cache_dir)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1.0)
"""


def output(program: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_kept_unless_the_user_has_settings_of_their_own():
    """Ten blocks of 64 MiB are 160,000 pages of 4 KiB; in huge pages, which a system may give, 320."""
    kept, faults = output(FAULTS).split()
    assert kept == "True" and int(faults) < 100
    kept, faults = output(FAULTS, MALLOC_ARENA_MAX="2").split()
    assert kept == "False" and int(faults) > 300


@pytest.mark.parametrize("environ, found", [({"JAX_PLATFORMS": "cpu"}, True), ({}, False)])
def test_with_an_accelerator_memory_is_left_alone(environ, found, monkeypatch):
    """Such a process computes elsewhere, unless it is told to stay on the CPU."""
    calls = []
    monkeypatch.setattr(machine, "find_spec", lambda name: name == "libtpu")
    library = type("Library", (), {"mallopt": staticmethod(lambda *option: calls.append(option) or 1)})
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine.keep_freed_memory(environ) is bool(calls) is found


def test_products_go_through_eigen_unless_the_user_says_otherwise():
    """In the versions of jaxlib that know the flag; in all others nothing is asked for."""
    asked, ynn = output(PRODUCTS, XLA_FLAGS="").split()
    assert asked == "True" and ynn == "False"
    asked, _ = output(PRODUCTS, XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=").split()
    assert asked == "False"


def test_other_versions_of_jaxlib_and_accelerators_are_asked_for_no_flag(monkeypatch):
    monkeypatch.setattr(machine.jaxlib.version, "__version__", "1.0.0")
    environ = {"JAX_PLATFORMS": "cpu"}
    assert not machine.multiply_with_eigen(environ) and "XLA_FLAGS" not in environ
    monkeypatch.undo()
    monkeypatch.setattr(machine, "find_spec", lambda name: name == "libtpu")
    assert not machine.multiply_with_eigen(environ := {}) and not environ


def test_compiled_programs_are_kept_where_the_user_does_not_say_otherwise(tmp_path):
    folder = output(PROGRAMS, tmp_path)
    assert folder.startswith(f"{tmp_path / 'programs'}{os.sep}") and any(Path(folder).iterdir())
    assert output(PROGRAMS, tmp_path) == folder
    assert output(PROGRAMS, tmp_path / "no", JAX_COMPILATION_CACHE_DIR=f"{tmp_path}/mine") == f"{tmp_path}/mine"
    assert output(PROGRAMS, tmp_path / "no", JAX_ENABLE_COMPILATION_CACHE="0") == "None"
    assert not (tmp_path / "no").exists()
