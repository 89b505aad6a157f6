"""Checkpoints: bit identity, and that no damage passes unnoticed."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints, abstract, nbytes, require_space
from maskdiff_jax.train.digest import array_digest, json_digest
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.state import TrainState

DATA, META = {"epoch": 3, "position": [5, 7]}, {"config": {"lr": 1e-3}, "fingerprint": "f", "versions": {"jax": "0"}}


def make_state(seed: int) -> dict:
    """float32, bfloat16, int32 and bool leaves, replicated or sharded over the eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "kernel": jax.random.normal(keys[0], (64, 40)),
        "half": jax.random.normal(keys[1], (24, 3), jnp.bfloat16),
    }
    moments = optax.adamw(1e-3).init(params)
    state = {
        "step": jnp.int32(seed),
        "params": params,
        "opt_state": jax.tree.map(lambda leaf: leaf + seed, moments),
        "mask": jax.random.bernoulli(keys[2], 0.5, (11,)),
    }
    place = lambda leaf: PartitionSpec("data") if leaf.ndim == 2 else PartitionSpec()  # noqa: E731
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, place(leaf))), state)


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.sharding == y.sharding
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def states():
    return {step: make_state(step) for step in (100, 200)}


@pytest.fixture(scope="module")
def saved(states, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step, state in states.items():
        checkpoints.save(step, state, DATA | {"step": step}, META)
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(folder, state, **options):
    """(restored, warnings)."""
    warnings = []
    checkpoints = Checkpoints(folder, warn=warnings.append, **options)
    try:
        return checkpoints.restore(abstract(state)), warnings
    finally:
        checkpoints.close()


def files(step_folder: Path) -> list[Path]:
    """The largest first."""
    return sorted((f for f in step_folder.rglob("*") if f.is_file()), key=lambda f: (-f.stat().st_size, f))


def test_restores_bit_for_bit_with_shardings(saved, states):
    restored, warnings = restore(saved, states[100], read_only=True)
    assert restored.step == 200 and warnings == []
    assert restored.data == DATA | {"step": 200} and restored.meta == META
    assert_identical(restored.state, states[200])


def test_restores_onto_other_devices_and_without_a_sharding(saved, states):
    plain = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), states[100])
    state = Checkpoints(saved, read_only=True).restore(plain).state
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(states[200]), strict=True):
        assert leaf.sharding.device_set == {jax.devices()[0]}
        assert np.asarray(leaf).tobytes() == np.asarray(want).tobytes()


def test_leaves_given_as_ellipsis_are_not_read(copy, states):
    kernel = abstract(states[100])["params"]["kernel"]
    wanted = jax.tree.map(lambda leaf: ..., abstract(states[100])) | {"params": {"kernel": kernel, "half": ...}}
    state = Checkpoints(copy, read_only=True).restore_step(200, wanted).state
    assert state["params"]["half"] is ... and state["step"] is ...
    assert_identical(state["params"]["kernel"], states[200]["params"]["kernel"])


def test_a_step_can_be_chosen(saved, states):
    checkpoints = Checkpoints(saved, read_only=True)
    assert checkpoints.steps() == [100, 200] and checkpoints.latest_step() == 200
    assert_identical(checkpoints.restore_step(100, abstract(states[100])).state, states[100])
    with pytest.raises(CheckpointError, match=r"no checkpoint 150 in .*there are: 100, 200"):
        checkpoints.restore_step(150, abstract(states[100]))


def test_what_to_restore_may_depend_on_the_step(tmp_path):
    """A run in stages: its state has another shape in every stage."""
    checkpoints = Checkpoints(tmp_path, keep_latest=3)
    for step in (1, 2, 3):
        checkpoints.save(step, {"a": jnp.full(step, step)}, {}, {})
    wanted = lambda step: {"a": jax.ShapeDtypeStruct((step,), jnp.int32)}  # noqa: E731
    assert checkpoints.restore(wanted).state["a"].tolist() == [3, 3, 3]
    assert checkpoints.restore_step(1, wanted).state["a"].tolist() == [1]
    _truncate(tmp_path / "3")
    assert checkpoints.restore(wanted).state["a"].tolist() == [2, 2]
    with pytest.raises(
        CheckpointError, match=r"checkpoint 2 in .* holds another model: a is int32\[2\] there, int32\[5\]"
    ):
        checkpoints.restore(lambda step: wanted(step + 3))
    checkpoints.close()


def test_nothing_saved_yet_is_none(tmp_path, states):
    assert restore(tmp_path / "new", states[100]) == (None, [])
    assert restore(tmp_path / "absent", states[100], read_only=True) == (None, [])
    assert (tmp_path / "new").is_dir() and not (tmp_path / "absent").exists()


def test_buffers_may_be_donated_right_after_save(tmp_path, states):
    state = make_state(300)
    kept = jax.tree.map(np.array, state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, {})
    flip = lambda leaf: ~leaf if leaf.dtype == bool else -leaf  # noqa: E731
    jax.jit(lambda tree: jax.tree.map(flip, tree), donate_argnums=0)(state)
    assert state["params"]["kernel"].is_deleted()
    restored = checkpoints.restore(abstract(states[100])).state
    checkpoints.close()
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, restored, kept)))


@pytest.mark.parametrize("sealed", [True, False])
def test_every_flipped_bit_is_noticed(copy, states, sealed):
    """In any file of the state and the record; without the seal, by the arrays' digests, unless no value depends on it.

    Orbax alone restores wrong values here: the largest file holds the arrays.
    """
    random = np.random.default_rng(0)
    if not sealed:
        (copy / "200" / "files.json").unlink()
    newest = [file for file in files(copy / "200") if file.parent != copy / "200" and file.stat().st_size]
    noticed = []
    for file in [newest[0]] * 5 + newest[1:]:
        original = file.read_bytes()
        content = bytearray(original)
        bit = int(random.integers(8 * len(content)))
        content[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(content)
        restored, warnings = restore(copy, states[100], read_only=True)
        file.write_bytes(original)
        assert_identical(restored.state, states[restored.step])
        noticed.append(restored.step == 100)
        if noticed[-1]:
            (line,) = warnings
            assert re.fullmatch(r"checkpoint 200 is damaged: [^\n]+; using 100", line), line
            assert not sealed or file.name in line
        else:
            assert warnings == []
    assert all(noticed) if sealed else sum(noticed[:5]) >= 3


def _truncate(folder: Path):
    largest = files(folder)[0]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _swap_record(folder: Path):
    shutil.copytree(folder.parent / "100" / "record", folder / "record", dirs_exist_ok=True)


def _edit_record(folder: Path):
    path = folder / "record" / "metadata"
    record = json.loads(path.read_text())
    record["body"]["data"]["epoch"] = 4
    path.write_text(json.dumps(record))


DAMAGE = {
    "truncated": _truncate,
    "file missing": lambda folder: files(folder)[0].unlink(),
    "state missing": lambda folder: shutil.rmtree(folder / "state"),
    "record missing": lambda folder: shutil.rmtree(folder / "record"),
    "metadata missing": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "all missing": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "record empty": lambda folder: (folder / "record" / "metadata").write_text(""),
    "record of another shape": lambda folder: (folder / "record" / "metadata").write_text("[1]"),
    "record of another step": _swap_record,
    "record edited": _edit_record,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named_and_moved_aside_and_training_goes_on(damage, copy, states):
    damage(copy / "200")
    (copy / "damaged-200").mkdir()  # from an earlier accident: must stay
    (copy / "damaged-200" / "note").write_text("mine")
    left = {f.relative_to(copy / "200") for f in files(copy / "200")}

    restored, (line,) = restore(copy, states[100])
    assert restored.step == 100
    assert_identical(restored.state, states[100])
    assert re.fullmatch(r"checkpoint 200 is damaged: [^\n]+; using 100 \(moved to damaged-200-2\)", line), line
    assert {f.relative_to(copy / "damaged-200-2") for f in files(copy / "damaged-200-2")} == left
    assert (copy / "damaged-200" / "note").read_text() == "mine"

    checkpoints = Checkpoints(copy)
    assert checkpoints.save(200, states[200], DATA, META, wait=True)  # the step is free again
    assert_identical(checkpoints.restore(abstract(states[100])).state, states[200])
    checkpoints.close()


def test_no_sound_checkpoint_is_an_error_each_time_and_moves_nothing(copy, states):
    for step in (100, 200):
        _truncate(copy / str(step))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound \(200: .*; 100: "):
            restore(copy, states[100])
    assert sorted(path.name for path in copy.iterdir()) == ["100", "200"]
    with pytest.raises(CheckpointError, match=r"checkpoint 100 in .* is damaged: "):
        Checkpoints(copy, read_only=True).restore_step(100, abstract(states[100]))
    for step in (100, 200):
        (copy / str(step)).rename(copy / f"damaged-{step}")
    with pytest.raises(CheckpointError, match=r"no sound checkpoint is left in .*only damaged-100, damaged-200"):
        restore(copy, states[100])


@pytest.mark.parametrize(
    "leaf, shown",
    [
        (jax.ShapeDtypeStruct((64, 41), jnp.float32), "float32[64, 41]"),
        (jax.ShapeDtypeStruct((64, 40), jnp.bfloat16), "bfloat16[64, 40]"),
        (None, "absent"),
    ],
)
def test_another_model_is_an_error_and_not_damage(leaf, shown, copy, states):
    wanted = abstract(states[100])
    wanted["params"] = {"kernel": leaf, "half": wanted["params"]["half"]}
    with pytest.raises(CheckpointError, match=r"checkpoint 200 in .* holds another model: ") as error:
        Checkpoints(copy).restore(wanted)
    assert str(error.value).endswith(f": params/kernel is float32[64, 40] there, {shown} here")
    assert sorted(path.name for path in copy.iterdir()) == ["100", "200"]


@pytest.mark.parametrize(
    "keep_latest, keep_every, kept",
    [(1, None, [7]), (2, None, [6, 7]), (1, 3, [3, 6, 7]), (3, 2, [2, 4, 5, 6, 7])],
)
def test_what_is_kept(keep_latest, keep_every, kept, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_latest, keep_every)
    for step in range(1, 8):
        assert checkpoints.save(step, {"a": jnp.arange(step)}, {}, {})
        assert checkpoints.latest_step() == step
    assert not checkpoints.save(7, {"a": jnp.arange(7)}, {}, {})
    with pytest.raises(CheckpointError, match=r"cannot save step 1: .* holds the later step 7"):
        checkpoints.save(1, {"a": jnp.arange(1)}, {}, {})
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).steps() == kept


def test_a_failed_save_is_an_error_and_earlier_checkpoints_survive(tmp_path):
    """Files are limited to 16 KB for a moment: what a full disk looks like from here."""
    state = {"a": jax.random.normal(jax.random.key(0), (100, 100))}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, {}, wait=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        with pytest.raises(CheckpointError, match=rf"cannot write checkpoint 2 in {tmp_path}: File too large"):
            checkpoints.save(2, state, {}, {}, wait=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.restore(abstract(state)).step == 1
    assert checkpoints.save(3, state, {}, {}, wait=True)
    assert checkpoints.steps() == [1, 3]
    checkpoints.close()


def test_a_reader_beside_a_trainer_changes_nothing(copy, states):
    unfinished = copy / "300.orbax-checkpoint-tmp"
    unfinished.mkdir()
    _truncate(copy / "200")
    restored, (line,) = restore(copy, states[100], read_only=True)
    assert restored.step == 100 and line.endswith("using 100")
    assert sorted(path.name for path in copy.iterdir()) == ["100", "200", unfinished.name]
    with pytest.raises(CheckpointError, match="open for reading only"):
        Checkpoints(copy, read_only=True).save(400, states[100], {}, {})


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
    """The same numbers, in plain dicts, wherever the others lie."""
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert (x.dtype, x.shape, x.devices()) == (y.dtype, y.shape, {jax.devices()[0]})
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


AVERAGES = {None: lambda s: s.params, "first": lambda s: get_ema(s.opt_state, DECAYS[0])}
AVERAGES |= {decay: lambda s, decay=decay: get_ema(s.opt_state, decay) for decay in DECAYS}


@pytest.mark.parametrize("average", AVERAGES)
def test_parameters_are_read_without_knowing_their_model(run, average):
    checkpoints = Checkpoints(run.folder, read_only=True)
    want = AVERAGES[average](run.states[2])
    saved = checkpoints.read_params(average)
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
    (folder / "files.json").unlink()


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
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
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


KILLED = """
import sys, jax, jax.numpy as jnp
from maskdiff_jax.train.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10**6):
    checkpoints.save(step, {"a": jnp.full((300, 300), step, jnp.float32)}, {"step": step}, {})
    print(step, flush=True)
"""


def test_kill_9_during_saves_leaves_a_sound_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 8:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    restored, warnings = restore(tmp_path, {"a": jnp.zeros((300, 300))})
    assert warnings == [] and restored.step >= 7 and restored.data == {"step": restored.step}
    assert (restored.state["a"] == restored.step).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="keep_latest must be at least 1, got 0"):
        Checkpoints("unused", keep_latest=0)
    with pytest.raises(ValueError, match="keep_every must be at least 1 or None, got 0"):
        Checkpoints("unused", keep_every=0)


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot open .*file: not a directory"):
        Checkpoints(tmp_path / "file")


def test_space(tmp_path):
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(CheckpointError, match=r"not enough disk for .*yet: 1000000000000\.00 GB needed, [\d.]+ GB"):
        require_space(tmp_path / "not" / "yet", 10**21)
    assert nbytes({"a": jnp.zeros((3, 5)), "b": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}) == 64


def test_digests_see_dtype_shape_and_bytes_and_only_those():
    zeros = np.zeros((2, 3), np.float32)
    others = [zeros.reshape(3, 2), zeros.astype(np.int32), zeros + np.float32(1e-45), -zeros]
    assert len({array_digest(a) for a in [zeros, *others]}) == 5
    assert array_digest(np.asfortranarray(np.ones((2, 3)))) == array_digest(np.ones((2, 3)))
    assert array_digest(np.zeros((), jnp.bfloat16)) != array_digest(np.zeros((), np.float16))
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
