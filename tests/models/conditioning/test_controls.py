"""Controls against their formula, their phase, their nulls and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import NULL_CONTROL, null
from maskdiff_jax.models.conditioning import controls
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

SHAPE = CondShape(controls_high=2, controls_low=3)
COND = Cond(
    controls_high=jax.random.uniform(jax.random.key(0), (4, 2)),
    controls_low=jax.random.uniform(jax.random.key(1), (4, 3)),
)
MEMBER = controls(SHAPE, 16, features=8, scale=50.0)
PARAMS = random_params(lambda key: MEMBER.init(key, COND)["params"], scale=0.3)


def vector(cond: Cond) -> np.ndarray:
    return np.asarray(MEMBER.apply({"params": PARAMS}, cond).vector)


def embedded(numbers, params, known=True) -> np.ndarray:
    """E of the docstring in float64, with features 8 and scale 50."""
    angles = 50.0 * np.float64(numbers)[:, :, None] * 10_000.0 ** -(np.arange(4) / 4)[None, None]
    waves = np.where(
        np.broadcast_to(known, numbers.shape)[:, :, None], np.concatenate([np.cos(angles), np.sin(angles)], -1), 0
    )
    h = waves.reshape(len(numbers), -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    return h / (1 + np.exp(-h)) @ params["out"]["kernel"] + params["out"]["bias"][None]


@pytest.mark.parametrize("phase", [None, jnp.array([0.0, 0.3, 0.7, 1.0])], ids=["none", "phase"])
def test_formula(phase):
    gamma = np.ones((4, 1)) if phase is None else np.asarray(phase)[:, None]
    high = embedded(COND.controls_high, PARAMS["high_mlp"])
    low = embedded(COND.controls_low, PARAMS["low_mlp"])
    np.testing.assert_allclose(vector(COND._replace(phase=phase)), high + gamma * low, atol=1e-4)
    assert min(np.abs(high).min(), np.abs(low).min()) > 1e-4


def test_null_controls_are_the_zero_vector_image_by_image_and_kind_by_kind():
    nulls = null(COND, "controls")
    np.testing.assert_array_equal(vector(nulls), np.zeros((4, 16)))
    images = jnp.array([True, False, True, False])[:, None]
    mixed = jax.tree.map(lambda a, b: jnp.where(images, a, b), nulls, COND)
    np.testing.assert_array_equal(vector(mixed), np.where(images, 0, vector(COND)))
    alone = vector(COND._replace(controls_low=nulls.controls_low))
    np.testing.assert_allclose(alone, embedded(COND.controls_high, PARAMS["high_mlp"]), atol=1e-4)


def test_one_unknown_number_has_no_features():
    low = COND.controls_low.at[:, 1].set(NULL_CONTROL)
    known = np.array([True, False, True])[None]
    expected = embedded(COND.controls_low, PARAMS["low_mlp"], known)
    only_low = vector(COND._replace(controls_low=low, controls_high=null(COND, "controls").controls_high))
    np.testing.assert_allclose(only_low, expected, atol=1e-4)


def test_fractions_a_hundredth_apart_are_told_apart_by_default():
    """Neighbours at 0.01 differ in direction more than rounding, and less than strangers do."""
    member = controls(CondShape(controls_high=1), 16)
    params = random_params(lambda key: member.init(key, Cond(controls_high=jnp.zeros((1, 1))))["params"], scale=0.05)
    numbers = jnp.array([[0.5], [0.5001], [0.51], [0.9]])
    out = np.asarray(member.apply({"params": params}, Cond(controls_high=numbers)).vector)
    gaps = np.linalg.norm(out[1:] - out[:1], axis=1)
    assert 0 < gaps[0] < gaps[1] < gaps[2] and gaps[1] > 0.1 * gaps[2]


def test_a_kind_without_controls_has_no_parameters():
    one = CondShape(controls_low=3)
    shapes = jax.eval_shape(controls(one, 16).init, jax.random.key(0), COND._replace(controls_high=None))["params"]
    assert set(shapes) == {"low_mlp"}
    assert shapes["low_mlp"]["hidden"]["kernel"].shape == (3 * 256, 16)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (COND._replace(controls_low=None), "cond.controls_low is None"),
        (COND._replace(controls_high=None), "cond.controls_high is None"),
        (COND._replace(controls_low=jnp.zeros((4, 2))), "controls_low of width 2, this network was built for 3"),
    ],
)
def test_another_number_of_controls_is_refused(cond, message):
    with pytest.raises(ValueError, match=message) as error:
        vector(cond)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"features": 0}, {"features": 7}, {"scale": 0.0}, {"scale": float("nan")}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="controls: features must be even and > 0, scale > 0, got"):
        controls(SHAPE, 16, **options)
