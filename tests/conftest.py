"""Hostile settings for the whole suite (set before any array exists), and the fixtures that every room shares.

Eight virtual CPU devices; mixed ranks never broadcast silently; warnings are errors (setup.cfg); every annotation of
the pure library, shapes included, is checked at each call (MASKDIFF_CHECK_TYPES=0: not, for shorter tracebacks).

Compiling is what the suite spends its time on, so the compiler optimises little: a third less time to compile, twice
the time to run. Processes that tests start are as users have them, on one CPU device with every optimisation.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax starts, and for the processes that tests start

import jax
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook below finds it by its name)

ROOT = Path(__file__).resolve().parents[1]
PURE = ("types", "rng", "tokens", "cond", "codec", "diffusion", "masks", "models", "samplers")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)

if os.environ.get("MASKDIFF_CHECK_TYPES") != "0":
    install_import_hook([f"maskdiff_jax.{room}" for room in PURE], "tests.typecheck.check")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of prepared TFDS data sets: $MASKDIFF_DATA_DIR, or ``../shared/data/tfds`` beside the repository."""
    folder = Path(os.environ.get("MASKDIFF_DATA_DIR", ROOT.parent / "shared" / "data" / "tfds"))
    if not folder.is_dir():
        pytest.skip(f"no prepared data sets in {os.path.relpath(folder, ROOT)}: set MASKDIFF_DATA_DIR")
    return folder


SLOWEST = (
    "test_main.py",
    "test_staged_runs.py",
    "test_contract.py",
    "test_cifar.py",
    "test_folder.py",
    "test_plan.py",
    "test_build.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: with two workers the suite then ends when its work does."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)
