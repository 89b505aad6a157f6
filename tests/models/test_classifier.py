"""The classifier's sizes, and what it does to images of any size; what it learns is tested in tests/evaluate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.classifier import classifier
from tests.models.perturb import random_params


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (1, 2, 1), (200, 90, 3)])
def test_sizes(shape):
    """About 100,000 parameters, however large the images."""
    net = classifier(shape, 10)
    params = jax.eval_shape(net.init, jax.random.key(0))
    assert 90_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 110_000
    out = jax.eval_shape(net.apply, params, jax.ShapeDtypeStruct((3, *shape), jnp.float32))
    assert {name: array.shape for name, array in out.items()} == {"pool": (3, net.dims), "logits": (3, 10)}


def test_large_images_are_averaged_down():
    """An image of 128 pixels a side is seen as the means of its 2x2 squares."""
    net = classifier((64, 64, 1), 2, width=4)
    params = random_params(net.init)
    small = jax.random.normal(jax.random.key(0), (1, 64, 64, 1))
    checks = jnp.tile(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), (64, 64))[None, :, :, None]
    large = jnp.repeat(jnp.repeat(small, 2, axis=1), 2, axis=2) + checks
    apply = jax.jit(net.apply)
    for name, array in apply(params, large).items():
        np.testing.assert_allclose(array, apply(params, small)[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_bad_sizes():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        classifier((8, 8, 1), 1)
    with pytest.raises(ValueError, match="width must be a positive multiple of 4, got 6"):
        classifier((8, 8, 1), 10, width=6)
