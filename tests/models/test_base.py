"""`from_linen`: a Flax module as two pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maskdiff_jax.models import from_linen
from maskdiff_jax.types import Cond, Output, Tokens


class Noisy(nn.Module):
    """One weight per channel and dropout; it reads a vector condition where there is one."""

    @nn.compact
    def __call__(self, x, level, cond, *, visible=None, train=False):
        x = x * self.param("gain", nn.initializers.ones, x.shape[-1:])[None, None, None]
        if cond.pooled is not None:
            x = x + nn.Dense(1, name="pooled")(cond.pooled)[:, None, None]
        return Output(nn.Dropout(0.5, deterministic=not train)(x), visible)


X, LEVEL = jnp.ones((2, 4, 4, 3)), jnp.zeros(2)


def test_init_is_jittable_and_returns_a_plain_dict():
    model = from_linen(Noisy(), (4, 4, 3))
    assert model.tokens is None
    params = jax.jit(model.init)(jax.random.key(0))
    assert type(params) is dict
    assert params["gain"].shape == (3,)


def test_an_example_of_the_conditions_shapes_the_parameters():
    model = from_linen(Noisy(), (4, 4, 3), Tokens((2, 2), 2), Cond(pooled=jnp.zeros((1, 7))))
    assert model.init(jax.random.key(0))["pooled"]["kernel"].shape == (7, 1)
    assert model.tokens == Tokens((2, 2), 2)


def test_the_key_drives_dropout_in_training_only():
    model = from_linen(Noisy(), (4, 4, 3))
    params = model.init(jax.random.key(0))
    draw = lambda seed, train: model.apply(params, X, LEVEL, Cond(), train=train, key=jax.random.key(seed)).prediction  # noqa: E731
    np.testing.assert_array_equal(draw(0, True), draw(0, True))
    assert np.any(np.asarray(draw(0, True)) != np.asarray(draw(1, True)))
    np.testing.assert_array_equal(draw(0, False), X)
    np.testing.assert_array_equal(model.apply(params, X, LEVEL, Cond()).prediction, X)
