"""Hostile settings for the whole suite (set before any array exists), and the fixtures that every room shares.

Eight virtual CPU devices; mixed ranks never broadcast silently; warnings are errors (setup.cfg); every annotation of
the pure library, shapes included, is checked at each call (MASKDIFF_CHECK_TYPES=0: not, for shorter tracebacks).

Compiling is what the suite spends its time on, so the compiler optimises little, in one piece, and without its fusion
emitters: a third of the processor time to compile a training step, for programs that are slower, which is of no matter
here. Processes that tests start have one CPU device as users do, and all optimisations but the emitters.
"""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax starts, and for the processes that tests start

if "PYTEST_XDIST_WORKER" not in os.environ:  # whose environment is that of the first process
    quick = ["--xla_cpu_parallel_codegen_split_count=1"]
    if version("jaxlib").startswith("0.10."):  # later ones have no other way, and end at a flag that they do not know
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *quick])
    # what processes that tests start keep for later ones: gone at the end
    kept = tempfile.TemporaryDirectory(prefix="maskdiff-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = kept.name

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook below finds it by its name)

ROOT = Path(__file__).resolve().parents[1]
PURE = ("types", "rng", "tokens", "cond", "codec", "diffusion", "masks", "models", "samplers")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)

if os.environ.get("MASKDIFF_CHECK_TYPES") != "0":
    install_import_hook([f"maskdiff_jax.{room}" for room in PURE], "tests.typecheck.check")

from maskdiff_jax import machine  # noqa: E402  (after the hook)

machine.multiply_with_eigen(os.environ)  # as the command line, so that runs here and there are equal in every bit


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of prepared TFDS data sets: $MASKDIFF_DATA_DIR, or ``../shared/data/tfds`` beside the repository."""
    folder = Path(os.environ.get("MASKDIFF_DATA_DIR", ROOT.parent / "shared" / "data" / "tfds"))
    if not folder.is_dir():
        pytest.skip(f"no prepared data sets in {os.path.relpath(folder, ROOT)}: set MASKDIFF_DATA_DIR")
    return folder


@pytest.fixture
def one_device(monkeypatch):
    """For runs in this process whose subject is not the devices: with one there is less to compile."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)


@pytest.fixture(scope="module")
def always_one_device():
    """The same for a whole module, its fixtures included."""
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: one)
        yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """An empty folder for the compiled programs of this session, or of this worker of it."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(compiled):
    """For whole runs, which compile the same programs: JAX keeps them on disk, where the later runs find them."""
    options = {
        "jax_compilation_cache_dir": str(compiled),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for settings in (options, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # which has looked at the settings already
        if settings is options:
            yield


SLOWEST = (  # the longest first
    "test_processes.py",
    "test_claims.py",
    "test_encode.py",
    "test_main.py",
    "test_staged_runs.py",
    "test_faults.py",
    "test_contract.py",
    "test_checkpoint_runs.py",
    "test_engines.py",
    "test_bad_steps.py",
    "test_cifar.py",
    "test_folder.py",
    "test_plan.py",
    "test_build.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: with two workers the suite then ends when its work does."""
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
