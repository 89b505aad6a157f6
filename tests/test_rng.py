"""A draw depends on (key, name, number of the image) and on nothing else."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.rng import key_for, normal, per_image
from tests.masks.contract import assert_mean, assert_reproducible

KEY = jax.random.key(0)
NAMES = ("time", "noise", "mask", "visible", "drop", "dropout", "")


def bits(key):
    return np.asarray(jax.random.key_data(key))


def test_each_name_and_each_parent_has_its_own_key():
    keys = [bits(key_for(parent, name)) for parent in (KEY, jax.random.key(1)) for name in NAMES] + [bits(KEY)]
    assert all(not np.array_equal(a, b) for a, b in combinations(keys, 2))


def test_a_name_gives_the_same_key_always_and_over_an_array_of_keys():
    np.testing.assert_array_equal(bits(key_for(KEY, "noise")), bits(jax.jit(lambda k: key_for(k, "noise"))(KEY)))
    keys = per_image(KEY, 3)
    np.testing.assert_array_equal(bits(key_for(keys, "noise")), np.stack([bits(key_for(k, "noise")) for k in keys]))


def test_an_image_s_key_is_that_of_its_global_number():
    keys = bits(per_image(KEY, 8))
    assert len(np.unique(keys, axis=0)) == 8
    np.testing.assert_array_equal(bits(per_image(KEY, jnp.array([5, 2]))), keys[[5, 2]])
    np.testing.assert_array_equal(bits(jax.jit(lambda ids: per_image(KEY, ids))(jnp.arange(8))), keys)


def test_noise_is_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch():
    assert_reproducible(lambda keys: normal(keys, (4, 4, 3)))


def test_noise_is_standard_normal_and_uncorrelated_between_images_and_names():
    x = np.asarray(normal(per_image(key_for(KEY, "a"), 2), (20_000,)), np.float64)
    y = np.asarray(normal(per_image(key_for(KEY, "b"), 2), (20_000,)), np.float64)
    assert x.shape == (2, 20_000)
    for moment, expected in enumerate((0.0, 1.0, 0.0, 3.0), start=1):
        assert_mean(x.ravel() ** moment, expected)
    for other in (x[1], y[0], y[1]):
        assert_mean(x[0] * other, 0.0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 1)])
def test_noise_has_the_shape_of_one_image_behind_the_batch(shape):
    drawn = normal(per_image(KEY, 4), shape)
    assert drawn.shape == (4, *shape) and drawn.dtype == jnp.float32
