"""Checkpoints: bit identity, and which of them is read and which refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from maskdiff_jax.train.digest import array_digest, json_digest
from maskdiff_jax.train.reading import abstract
from maskdiff_jax.train.verify import require_same_run
from tests.train.saved import DATA, META, assert_identical, names, restore, truncate


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
    truncate(tmp_path / "3")
    assert checkpoints.restore(wanted).state["a"].tolist() == [2, 2]
    with pytest.raises(
        CheckpointError, match=r"checkpoint 2 in .* holds another model: a is int32\[2\] there, int32\[5\]"
    ):
        checkpoints.restore(lambda step: wanted(step + 3))
    checkpoints.close()


def test_a_caller_may_refuse_a_sound_checkpoint(copy, states):
    """By its step and meta, before an array is read; a newer damaged one is not asked about, and stays."""
    truncate(copy / "200")
    seen = []

    def accept(step, meta):
        seen.append((step, meta))
        if len(seen) == 2:
            raise CheckpointError("not mine")

    other_model = {"a": jax.ShapeDtypeStruct((1,), jnp.float32)}
    checkpoints = Checkpoints(copy, warn=lambda line: None)
    assert checkpoints.restore_step(100, abstract(states[100]), accept).step == 100
    with pytest.raises(CheckpointError, match="not mine"):
        checkpoints.restore(other_model, accept)
    assert seen == [(100, META), (100, META)] and names(copy) == ["100", "200"]
    assert checkpoints.restore(abstract(states[100]), accept).step == 100
    checkpoints.close()


CONFIG = {"seed": 0, "optimizer": {"name": "adamw", "lr": 1e-3}, "log": {"every": 5}, "stages": [{"steps": 1}]}


@pytest.mark.parametrize(
    "config, fingerprint, differing",
    [
        (CONFIG | {"log": {"every": 7}}, "digits", []),
        (CONFIG | {"log": {"every": 7}}, None, []),
        (
            CONFIG | {"optimizer": {"name": "adamw", "lr": 2e-3}},
            "digits",
            ["lr: 0.001 in the checkpoint, 0.002 now"],
        ),
        (CONFIG | {"stages": ({"steps": 2},)}, "digits", [r"stages\[0\].steps: 1 in the checkpoint, 2 now"]),
        (CONFIG, "letters", ['data fingerprint: "digits" in the checkpoint, "letters" now']),
        (CONFIG | {"seed": 1}, "letters", ["seed: 0", "1 now; data fingerprint"]),
        (CONFIG | {"seed": 1}, None, ["seed: 0 in the checkpoint, 1 now$"]),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_the_keys_that_differ(config, fingerprint, differing):
    """By its data only where a fingerprint is given."""
    meta = {"config": CONFIG, "fingerprint": "digits", "seconds": 1.0}
    if not differing:
        require_same_run("checkpoint 5", meta, config, fingerprint, free=("log",))
        return
    with pytest.raises(CheckpointError, match=f"^checkpoint 5 is of another run: .*{'.*'.join(differing)}") as error:
        require_same_run("checkpoint 5", meta, config, fingerprint, free=("log",))
    assert "\n" not in str(error.value) and "log.every" not in str(error.value)
    with pytest.raises(CheckpointError, match="checkpoint 5 does not say of which config and data it is"):
        require_same_run("checkpoint 5", {"config": CONFIG}, config, fingerprint)


def test_nothing_saved_yet_is_none(tmp_path, states):
    assert restore(tmp_path / "new", states[100]) == (None, [])
    assert restore(tmp_path / "absent", states[100], read_only=True) == (None, [])
    assert (tmp_path / "new").is_dir() and not (tmp_path / "absent").exists()


def test_a_reader_beside_a_trainer_changes_nothing(copy, states):
    unfinished = copy / "300.orbax-checkpoint-tmp"
    unfinished.mkdir()
    truncate(copy / "200")
    restored, (line,) = restore(copy, states[100], read_only=True)
    assert restored.step == 100 and line.endswith("using 100")
    assert names(copy) == ["100", "200", unfinished.name]
    with pytest.raises(CheckpointError, match="open for reading only"):
        Checkpoints(copy, read_only=True).save(400, states[100], {}, {})


def test_bad_arguments():
    with pytest.raises(ValueError, match="keep_latest must be at least 1, got 0"):
        Checkpoints("unused", keep_latest=0)
    with pytest.raises(ValueError, match="keep_every must be at least 1 or None, got 0"):
        Checkpoints("unused", keep_every=0)
    with pytest.raises(ValueError, match="keep_best must be at least 0, got -1"):
        Checkpoints("unused", keep_best=-1)


def test_digests_see_dtype_shape_and_bytes_and_only_those():
    zeros = np.zeros((2, 3), np.float32)
    others = [zeros.reshape(3, 2), zeros.astype(np.int32), zeros + np.float32(1e-45), -zeros]
    assert len({array_digest(a) for a in [zeros, *others]}) == 5
    assert array_digest(np.asfortranarray(np.ones((2, 3)))) == array_digest(np.ones((2, 3)))
    assert array_digest(np.zeros((), jnp.bfloat16)) != array_digest(np.zeros((), np.float16))
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
