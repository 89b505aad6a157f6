"""Phases run from 0 at noise to 1 at data without turning back, and hold back low-level controls alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.inputs import default
from maskdiff_jax.diffusion.phase import PHASES, cosine, none
from maskdiff_jax.diffusion.prediction import velocity
from maskdiff_jax.diffusion.process import linear_flow
from maskdiff_jax.models.dit import dit
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

T = jnp.linspace(0.0, 1.0, 101)
CONSTANTS = [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 3.0), (1.5, 0.5)]


@pytest.mark.parametrize("name", PHASES)
def test_every_phase_is_in_0_1_lets_all_in_at_data_and_never_turns_back(name):
    gamma = np.asarray(PHASES[name]()(T))
    assert gamma.shape == T.shape and gamma.dtype == np.float32
    assert gamma[0] == 1
    assert np.all((gamma >= 0) & (gamma <= 1))
    assert np.all(np.diff(gamma) <= 0)


@pytest.mark.parametrize(("a", "power"), CONSTANTS)
def test_the_cosine_is_its_formula_and_exactly_0_and_1_at_the_ends(a, power):
    gamma = np.asarray(jax.jit(cosine(a, power))(T))
    t = np.float64(T)
    np.testing.assert_allclose(gamma, ((1 + np.cos(np.pi * t**a)) / 2) ** power, atol=1e-5)
    assert gamma[0] == 1 and gamma[-1] == 0
    assert np.all(np.diff(gamma[1:-1]) < 0)


def test_none_is_1_everywhere():
    np.testing.assert_array_equal(none()(T), np.ones(101))


@pytest.mark.parametrize("options", [{"a": 0.0}, {"power": 0.0}, {"a": float("nan")}, {"power": float("inf")}])
def test_constants_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"cosine: {name} must be finite and > 0, got {options[name]}"):
        cosine(**options)


def test_at_pure_noise_low_level_controls_have_no_effect_and_high_level_ones_have():
    """The disentangled network of the paper in whole: a label token, controls in adaLN, the cosine."""
    shape = CondShape(classes=3, controls_high=2, controls_low=1)
    members = {"label_token": {}, "controls": {"features": 8}}
    model = dit((4, 4, 1), shape, width=16, depth=1, heads=2, conditioning=members)
    params, x = random_params(model.init, scale=0.3), jax.random.normal(jax.random.key(0), (2, 4, 4, 1))

    @jax.jit
    def denoise(t, cond):
        return make_denoiser(model, params, linear_flow(), velocity(), default(), phase=cosine())(x, t, cond).x

    base = Cond(label=jnp.array([0, 1]), controls_high=jnp.full((2, 2), 0.3), controls_low=jnp.full((2, 1), 0.6))
    low, high = base._replace(controls_low=base.controls_low / 2), base._replace(controls_high=base.controls_high / 2)
    t = jnp.array([1.0, 0.4])
    before, after_low, after_high = (np.asarray(denoise(t, cond)) for cond in (base, low, high))
    np.testing.assert_array_equal(after_low[0], before[0])
    assert np.abs(after_low - before)[1].max() > 1e-3
    assert np.abs(after_high - before).max(axis=(1, 2, 3)).min() > 1e-3
