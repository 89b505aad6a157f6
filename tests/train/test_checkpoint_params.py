"""Parameters read from a checkpoint without knowing the model that they are of."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.state import TrainState
from tests.train.saved import DATA, files, names, unseal


class Run(NamedTuple):
    """Two checkpoints of a trainer's state, every leaf another number, and its averages."""

    folder: Path
    states: dict[int, TrainState]


DECAYS = (0.9, 0.9999)


@pytest.fixture(scope="module")
def run(states, tmp_path_factory) -> Run:
    optimizer = make_optimizer(adamw(), constant(100, 1e-3), clip=1.0, ema=DECAYS)
    params = {"block": {"kernel": states[100]["params"]["kernel"]}, "half": states[100]["params"]["half"]}
    fresh = TrainState(jnp.int32(0), params, optimizer.init(params))
    random = np.random.default_rng(0)
    other = lambda leaf: jax.device_put(leaf + random.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)  # noqa: E731
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints, saved = Checkpoints(folder), {}
    for step in (1, 2):
        saved[step] = jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else other(leaf), fresh)
        checkpoints.save(step, saved[step], DATA, {"config": {"ema": list(DECAYS)}})
    checkpoints.close()
    return Run(folder, saved)


def assert_params(found, want):
    """The same numbers, in plain dicts and in this host's memory, wherever the others lie."""
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert type(x) is np.ndarray and (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == np.asarray(y).tobytes()


AVERAGES = {None: lambda s: s.params, "first": lambda s: get_ema(s.opt_state, DECAYS[0])}
AVERAGES |= {decay: lambda s, decay=decay: get_ema(s.opt_state, decay) for decay in DECAYS}


@pytest.mark.parametrize("average", AVERAGES)
def test_parameters_are_read_without_knowing_their_model(run, average):
    checkpoints = Checkpoints(run.folder, read_only=True)
    want = AVERAGES[average](run.states[2])
    on_devices = len(jax.live_arrays())
    saved = checkpoints.read_params(average)
    assert len(jax.live_arrays()) == on_devices  # a model may be larger than one of them
    assert (saved.step, saved.meta) == (2, {"config": {"ema": list(DECAYS)}})
    assert_params(saved.params, want)
    shapes = checkpoints.shapes(average)
    assert shapes.step == 2 and shapes.meta == saved.meta
    assert shapes.params == jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), want)


def _flip(folder: Path):
    file = files(folder)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def _swap_arrays(folder: Path):
    """Readable, and of another run: only the digests of the arrays tell."""
    shutil.copytree(folder.parent / "1" / "state", folder / "state", dirs_exist_ok=True)
    unseal(folder)


def _edit_record(folder: Path):
    path = folder / "record" / "metadata"
    record = json.loads(path.read_text())
    record["body"]["data"]["epoch"] = 4
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("damage", [_flip, _swap_arrays])
def test_damaged_parameters_are_passed_over_and_stay(damage, run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "checkpoints")
    damage(folder / "2")
    for average in AVERAGES:
        warnings = []
        checkpoints = Checkpoints(folder, warn=warnings.append)
        saved = checkpoints.read_params(average)
        assert saved.step == 1
        assert_params(saved.params, AVERAGES[average](run.states[1]))
        (line,) = warnings
        assert re.fullmatch(r"checkpoint 2 is damaged: [^\n]+; using 1", line), line
        assert checkpoints.shapes(average).step == 2  # the record is sound
        checkpoints.close()
    assert names(folder) == ["1", "2"]
    _flip(folder / "1")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound \(2: .*; 1: file "):
        Checkpoints(folder, read_only=True).read_params()
    for step in "12":
        _edit_record(folder / step)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound \(2: its record differs from its own"):
        Checkpoints(folder, read_only=True).shapes()


@pytest.mark.parametrize("read", [Checkpoints.read_params, Checkpoints.shapes])
def test_parameters_that_are_not_there_are_an_error(run, saved, tmp_path, read):
    with pytest.raises(CheckpointError, match=r"checkpoint 2 in .* no average with decay 0.5; there are: 0.9, 0.9999"):
        read(Checkpoints(run.folder, read_only=True), 0.5)
    with pytest.raises(CheckpointError, match=r"checkpoint 200 in .* no average with decay 0.9; there are: none"):
        read(Checkpoints(saved, read_only=True), 0.9)
    with pytest.raises(CheckpointError, match=r"checkpoint 200 in .* does not say which average is its first"):
        read(Checkpoints(saved, read_only=True), "first")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*absent"):
        read(Checkpoints(tmp_path / "absent", read_only=True))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.zeros(3)}, {}, {})
    with pytest.raises(CheckpointError, match=r"checkpoint 1 in .* holds no parameters"):
        read(checkpoints)
    checkpoints.close()
