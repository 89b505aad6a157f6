"""Parts of Inception against their formulas; the whole is held to recorded features in tests/evaluate."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.models import inception
from tests.models.perturb import random_params


def test_batch_norm_at_inference():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    params = random_params(lambda key: inception.Moments().init(key, x)["params"], scale=0.5)
    params["var"] = np.square(params["var"])
    scale, bias, mean, var = (params[name][None, None, None] for name in ("scale", "bias", "mean", "var"))
    expected = (np.asarray(x) - mean) / np.sqrt(var + 0.001) * scale + bias
    np.testing.assert_allclose(inception.Moments().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_means_do_not_count_the_padding():
    """A flat image stays flat up to its border, where a mean over the padding too would be 4/9 in the corners."""
    np.testing.assert_allclose(inception.mean_around(jnp.ones((1, 4, 5, 2))), jnp.ones((1, 4, 5, 2)), rtol=1e-6)
    np.testing.assert_array_equal(inception.maximum_around(-jnp.ones((1, 4, 5, 2))), -jnp.ones((1, 4, 5, 2)))


def test_maps_are_halved_from_the_first_place():
    """The maxima of 3x3 windows at 0, 2, 4, ... and none that reaches beyond the edge."""
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(inception.halved(x)[0, :, :, 0], [[14, 16], [26, 28]])
    assert inception.halved(jnp.zeros((1, 35, 35, 1))).shape == (1, 17, 17, 1)
