"""Damage to checkpoints: none passes unnoticed, and nothing else is taken for it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.reading import abstract
from maskdiff_jax.train.state import TrainState
from maskdiff_jax.train.verify import FORMAT
from tests.train.saved import (
    DATA,
    META,
    assert_identical,
    files,
    names,
    restore,
    rewrite,
    truncate,
    unseal,
)


@pytest.mark.parametrize("sealed", [True, False])
def test_every_flipped_bit_is_noticed(copy, states, sealed):
    """In any file of the state and the record; without the seal, by the arrays' digests, unless no value depends on it.

    Orbax alone restores wrong values here: the largest file holds the arrays.
    """
    random = np.random.default_rng(0)
    if not sealed:
        unseal(copy / "200")
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


def _swap_record(folder: Path):
    shutil.copytree(folder.parent / "100" / "record", folder / "record", dirs_exist_ok=True)


def _edit_record(folder: Path):
    path = folder / "record" / "metadata"
    record = json.loads(path.read_text())
    record["body"]["data"]["epoch"] = 4
    path.write_text(json.dumps(record))


DAMAGE = {
    "truncated": truncate,
    "file missing": lambda folder: files(folder)[0].unlink(),
    "state missing": lambda folder: shutil.rmtree(folder / "state"),
    "record missing": lambda folder: shutil.rmtree(folder / "record"),
    "seal missing": lambda folder: (folder / "files.json").unlink(),
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
        truncate(copy / str(step))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound \(200: .*; 100: "):
            restore(copy, states[100])
    assert names(copy) == ["100", "200"]
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
    assert names(copy) == ["100", "200"]


READ = {
    "restore": lambda checkpoints, wanted: checkpoints.restore(wanted),
    "restore_step": lambda checkpoints, wanted: checkpoints.restore_step(200, wanted),
    "read_params": lambda checkpoints, wanted: checkpoints.read_params(),
    "shapes": lambda checkpoints, wanted: checkpoints.shapes(),
    "best_step": lambda checkpoints, wanted: checkpoints.best_step(),
}


@pytest.mark.parametrize("sealed_otherwise", [True, False])
@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_another_version_is_an_error_and_not_damage(read, sealed_otherwise, copy, states):
    rewrite(copy / "200", format=2)
    if not sealed_otherwise:
        (copy / "200" / "files.json").unlink()
    checkpoints = Checkpoints(copy)
    said = r"^checkpoint 200 in .* was written by another version \(format 2 there, 1 here\)$"
    with pytest.raises(CheckpointError, match=said):
        read(checkpoints, abstract(states[100]))
    checkpoints.close()
    assert names(copy) == ["100", "200"]


def test_a_record_of_before_there_were_formats_and_seals_is_read(copy, states):
    rewrite(copy / "200", format=None, metric=None)
    unseal(copy / "200")
    restored, warnings = restore(copy, states[100], read_only=True)
    assert restored.step == 200 and warnings == []
    assert_identical(restored.state, states[200])
    assert Checkpoints(copy, read_only=True).best_step() is None


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_a_state_of_before_the_guard_is_of_another_version(read, copy, states):
    """Though its record has no format, either: neither damage nor another model."""
    record = json.loads((copy / "200" / "record" / "metadata").read_text())
    counts = {f"opt_state/{name}": {} for name in ("notfinite_count", "last_finite", "total_notfinite")}
    rewrite(copy / "200", format=None, leaves=record["body"]["leaves"] | counts)
    unseal(copy / "200")
    checkpoints = Checkpoints(copy)
    with pytest.raises(CheckpointError, match=r"^checkpoint 200 in .* another version \(format 0 there, 1 here\)$"):
        read(checkpoints, abstract(states[100]))
    checkpoints.close()
    assert names(copy) == ["100", "200"]


CHAIN = "opt_state/inner_state"  # clipping has no state; the rate counts its steps
STATE_OF_FORMAT = {
    1: {"step", "params/w"}
    | {f"opt_state/{count}" for count in ("in_row", "total", "last_good", "finite", "norm")}
    | {f"{CHAIN}/1/0/{leaf}" for leaf in ("count", "mu/w", "nu/w")}
    | {f"{CHAIN}/2/count", f"{CHAIN}/3/count", f"{CHAIN}/3/ema/0.9/w"}
}


def test_the_state_of_the_trainer_is_that_of_the_format():
    """Whoever changes the tree raises FORMAT: else older checkpoints are said to be of another model, or damaged."""
    optimizer = make_optimizer(adamw(), constant(10, 1e-3), clip=1.0, ema=(0.9,))
    params = {"w": jnp.zeros(3)}
    state = TrainState(jnp.int32(0), params, jax.eval_shape(optimizer.init, params))
    assert {FORMAT: set(flatten(state))} == STATE_OF_FORMAT


def test_a_format_that_a_flipped_bit_made_is_damage(copy, states):
    path = copy / "200" / "record" / "metadata"
    (copy / "200" / "files.json").unlink()
    path.write_text(re.sub(r'"format": ?1', '"format": 3', path.read_text()))
    restored, (line,) = restore(copy, states[100], read_only=True)
    assert restored.step == 100 and "its record differs from its own digest" in line


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
