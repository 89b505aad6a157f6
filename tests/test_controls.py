"""Controls by the command line, and the measurements of `benchmarks.controls` on images with known answers."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import controls
from configs import digits_controls
from maskdiff_jax.build import build
from maskdiff_jax.data import canvas, digits, to_float
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.state import init_state
from tests.cli import TINY, here

TINY_CONTROLS = ("--config=configs/digits_controls.py", *TINY[1:], "--config.steps=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run as training leaves it, but for the training: its config and a checkpoint of fresh parameters."""
    workdir = tmp_path_factory.mktemp("controls") / "run"
    config = digits_controls.get_config()
    config.model.update({"width": 16, "depth": 1, "heads": 2})
    config.sample.steps = 3
    experiment = build(config)
    state = init_state(experiment.model, experiment.optimizer, jax.random.key(0), make_mesh())
    meta = {"config": config.to_dict(), "fingerprint": experiment.dataset.fingerprint, "seconds": 0.0}
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        checkpoints.save(1, state, {}, meta, wait=True)
    write_json(workdir / "config.json", config.to_dict())
    return workdir


def sample(workdir, out, chosen):
    return here("--mode=sample", f"--workdir={workdir}", "--num=2", f"--out={out}", f"--controls={chosen}")


def test_samples_take_the_controls_that_are_asked_for(finished, tmp_path):
    assert sample(finished, tmp_path / "x.png", "flip=1,scale=12") == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["images"].shape == (2, 16, 16, 1)


@pytest.mark.parametrize(
    "chosen, text",
    [
        ("flop=1", "'flop' is no condition of this network; there are offset_top, offset_left, scale, flip, "),
        ("scale=big", "'scale=big' is not of the form name=number"),
    ],
)
def test_a_control_that_is_none_gives_one_line_and_status_two(finished, tmp_path, capsys, chosen, text):
    assert sample(finished, tmp_path / "x.png", chosen) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: --controls: ") and text in error[0]
    assert not list(tmp_path.iterdir())


def test_controls_that_the_data_do_not_record_are_named(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert here(*TINY_CONTROLS, "--config.augment.name=none", f"--workdir={workdir}") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "config.condition.controls_high: the data record no 'offset_top'" in error[0]
    assert not workdir.exists()


def test_an_arm_that_is_none_lists_the_choices():
    with pytest.raises(ValueError, match="digits_controls:tangled: choose from disentangled, entangled"):
        digits_controls.get_config("tangled")


def test_the_arms_differ_in_how_conditions_enter_alone():
    arms = {arm: digits_controls.get_config(arm) for arm in controls.ARMS}
    kept = {arm: config.to_dict() for arm, config in arms.items()}
    for config in kept.values():
        del config["model"]["conditioning"], config["condition"]["phase"]
    assert kept["entangled"] == kept["disentangled"]
    experiments = [build(config) for config in arms.values()]
    ends = jnp.array([0.0, 1.0])
    phases = {arm: e.phase(ends).tolist() for arm, e in zip(arms, experiments, strict=True)}
    assert phases == {"entangled": [1, 1], "disentangled": [1, 0]}
    shapes = [jax.eval_shape(e.model.init, jax.random.key(0)) for e in experiments]
    assert len({sum(leaf.size for leaf in jax.tree.leaves(s)) for s in shapes}) == 1  # parameters


def drawn(count, **fixed):
    """Real digits on the canvas, their labels and controls."""
    data, augment = digits(), canvas()
    records = data.train.fetch(np.arange(count))
    values = augment.controls(0, np.arange(count), data.shape)
    values |= {name: np.full(count, value, values[name].dtype) for name, value in fixed.items()}
    return records["image"], to_float(augment.apply(records["image"], values)), values


def test_the_centroid_of_a_point_is_its_centre_and_follows_shifts():
    images = np.full((2, 12, 16, 1), -1.0, np.float32)
    images[0, 3, 5] = images[1, 3, 5] = 1.0
    images[1, 7, 6] = 0.0  # half as bright
    np.testing.assert_allclose(controls.centroid(images), [[3.5, 5.5], [(2 * 3.5 + 7.5) / 3, (2 * 5.5 + 6.5) / 3]])
    _, placed, _ = drawn(20, scale=8, offset_top=1, offset_left=2)
    moved = np.roll(placed, (2, 1), axis=(1, 2))
    np.testing.assert_allclose(controls.centroid(moved) - controls.centroid(placed), [[2.0, 1.0]] * 20, atol=1e-5)


def test_a_digit_of_its_own_scale_is_cut_out_as_it_was():
    stored, images, values = drawn(50, **controls.BASE, flip=0)
    np.testing.assert_array_equal(controls.cut_out(images, values), stored)
    scaled = drawn(50, original_height=8, flip=0)[1:]
    expected = stored / stored.max((1, 2, 3), keepdims=True)
    found = controls.digit(*scaled)
    assert np.abs(found - expected).mean() < np.abs(found - np.roll(expected, 1, axis=0)).mean() / 3


def test_detail_is_none_in_squares_all_in_a_checkerboard_and_tells_original_sizes():
    squares = np.random.default_rng(0).random((3, 4, 4, 1)).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(controls.detail(squares), 0, atol=1e-12)
    board = np.where(np.indices((8, 8)).sum(0) % 2, 1.0, -1.0)[None, :, :, None]
    np.testing.assert_allclose(controls.detail(board), 1)
    _, images, values = drawn(300)
    found, whole = controls.detail(controls.digit(images, values)), values["original_height"] == 8
    assert np.mean((found > controls.threshold(found[~whole], found[whole])) == whole) > 0.98


def test_the_threshold_makes_the_fewest_errors():
    assert controls.threshold(np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0])) == 2.0
    assert controls.threshold(np.array([0.0, 1.0, 9.0]), np.array([2.0, 3.0, 4.0])) == 1.0


def test_drift_is_zero_under_the_controls_own_effect_and_root_two_between_strangers():
    stored, base, values = drawn(50, **controls.BASE)
    augment = canvas()
    for change in controls.CHANGES.values():
        asked = values | {name: np.full(50, value, values[name].dtype) for name, value in change.items()}
        changed = to_float(augment.apply(stored, asked))
        as_cut = asked | {"flip": np.zeros(50, np.int32)}
        rendered = to_float(augment.apply(controls.cut_out(base, values), as_cut))
        np.testing.assert_array_equal(rendered, changed)
        assert controls.drift(rendered, changed).max() < 1e-6
        assert controls.drift(rendered, np.roll(changed, 1, axis=0)).mean() > 0.2
    left, right = np.full((2, 1, 4, 4, 1), -1.0)
    left[0, 0], right[0, 3] = 0.5, 0.25
    np.testing.assert_allclose(controls.drift(left, right), np.sqrt(2), rtol=1e-6)


def test_the_interval_is_students():
    assert controls.interval([0.5]) == (0.5, None)
    mean, half = controls.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)
