"""Saving: what it waits for, and what a save that fails leaves behind."""

import contextlib
import gc
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train import failing, seal
from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from maskdiff_jax.train.parallel import make_mesh, replicated
from maskdiff_jax.train.reading import abstract
from maskdiff_jax.train.space import nbytes, require_space
from tests.train.saved import assert_identical, make_state, names


def test_save_returns_before_the_checkpoint_is_there_and_buffers_may_then_be_donated(tmp_path, monkeypatch):
    """A disk that does not get ready holds nobody up but the one who waits for it."""
    ready, reached = threading.Event(), threading.Event()
    sealed = seal.seal

    def slow(*arguments):
        reached.set()
        assert ready.wait(60)
        sealed(*arguments)

    monkeypatch.setattr(seal, "seal", slow)
    state, wanted = make_state(1), abstract(make_state(1))
    kept = jax.tree.map(np.array, state)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.save(1, state, {}, {})
    flip = lambda leaf: ~leaf if leaf.dtype == bool else -leaf  # noqa: E731
    jax.jit(lambda tree: jax.tree.map(flip, tree), donate_argnums=0)(state)
    kernel, negated, until = state["params"]["kernel"], jax.jit(jnp.negative, donate_argnums=0), time.monotonic() + 60
    while not kernel.is_deleted():  # jax copies what is still read for writing
        assert time.monotonic() < until
        negated(kernel)
    assert reached.wait(60) and checkpoints.steps() == [] and checkpoints.latest_step() == 1
    ready.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1]
    restored = checkpoints.restore(wanted).state
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, restored, kept)))
    checkpoints.close()


def test_saving_compiles_nothing_for_small_arrays(tmp_path, caplog):
    """Orbax lets devices with copies share the writing, by a program for each shape: seconds at a run's first save."""
    state = {str(n): jax.device_put(np.ones((8, n), np.float32), replicated(make_mesh())) for n in range(8, 200, 24)}
    checkpoints = Checkpoints(tmp_path)
    with jax.log_compiles():
        checkpoints.save(1, state, {}, {}, wait=True)
    assert not [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert_identical(checkpoints.restore(abstract(state)).state, state)
    checkpoints.close()


@contextlib.contextmanager
def small_files(limit: int = 16384):
    """No file may grow beyond the limit for a while: what a full disk looks like from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_space(monkeypatch):
    """The disk is full once all but the last file is written."""

    def fail(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(seal, "seal", fail)
        yield


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "in the next call"])
@pytest.mark.parametrize("full", ["arrays", "seal"])
def test_a_failed_save_is_an_error_of_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, caplog, full, wait):
    """No file of it stays, nobody else speaks of it, and afterwards steps are kept and deleted as ever."""
    random = np.random.default_rng(0)
    state = {str(i): jnp.asarray(random.normal(size=(60, 50)).astype(np.float32)) for i in range(40)}
    reason = {"arrays": "File too large", "seal": "No space left on device"}[full]
    checkpoints = Checkpoints(tmp_path, keep_latest=2, keep_best=1)
    for step in (1, 2):
        checkpoints.save(step, state, {}, {}, wait=True, metric=float(step))
    with (
        pytest.raises(CheckpointError, match=rf"^cannot write checkpoint 3 in {tmp_path}: {reason}$"),
        small_files() if full == "arrays" else no_space(monkeypatch),
    ):
        checkpoints.save(3, state, {}, {}, wait=wait, metric=0.0)
        assert not wait
        checkpoints.save(4, state, {}, {})
    assert names(tmp_path) == ["1", "2"]
    gc.collect()
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert checkpoints.latest_step() == 2 and checkpoints.best_step() == 1
    assert checkpoints.restore(abstract(state)).step == 2
    for step in (3, 5):
        assert checkpoints.save(step, state, {}, {}, wait=True)
    assert names(tmp_path) == ["1", "3", "5"]
    checkpoints.close()


def test_what_is_unfinished_goes_though_writes_under_way_make_it_anew(tmp_path):
    def write():
        for _ in range(8):
            (tmp_path / "7.tmp-0" / "state").mkdir(parents=True, exist_ok=True)
            time.sleep(0.03)

    (tmp_path / "8").mkdir()
    writes = threading.Thread(target=write)
    writes.start()
    failing.remove_unfinished(tmp_path, "7.tmp*")
    writes.join()
    assert names(tmp_path) == ["8"]


@contextlib.contextmanager
def without_privileges():
    """Root may write everywhere: as nobody for a while, where that is possible."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line():
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to nobody
        folder, state = Path(name) / "checkpoints", {"a": jnp.zeros(3)}
        Path(name).chmod(0o755)
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state, {}, {}, wait=True)
        folder.chmod(0o555)
        with without_privileges():
            with pytest.raises(CheckpointError, match=rf"^cannot write checkpoint 2 in {folder}: Permission denied$"):
                checkpoints.save(2, state, {}, {})
            with pytest.raises(CheckpointError, match=rf"^cannot open {folder}/new: Permission denied$"):
                Checkpoints(folder / "new")
            assert checkpoints.restore(abstract(state)).step == 1
        folder.chmod(0o755)
        assert checkpoints.save(2, state, {}, {}, wait=True) and names(folder) == ["1", "2"]
        checkpoints.close()


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot open .*file: not a directory"):
        Checkpoints(tmp_path / "file")


def test_space(tmp_path):
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(CheckpointError, match=r"not enough disk for .*yet: 1000000000000\.00 GB needed, [\d.]+ GB"):
        require_space(tmp_path / "not" / "yet", 10**21)
    assert nbytes({"a": jnp.zeros((3, 5)), "b": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}) == 64
