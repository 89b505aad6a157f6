"""Resizing against what TensorFlow 1 and PyTorch do, recorded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.evaluate.features.resize import centres, corners, matrix, resize
from tests.evaluate.inception_inputs import images
from tests.evaluate.recorded_answers import CONVENTIONS, RESIZES, answers

PLACES = {"tf": corners, "torch": centres}
RECORDED = answers("resize")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", RESIZES)
def test_recorded(convention, name):
    shape, side, step = RESIZES[name]
    result = jax.jit(lambda x: resize(x, side, PLACES[convention]))(images(*shape))
    assert result.shape == (shape[0], *side, shape[3]) and result.dtype == jnp.float32
    np.testing.assert_allclose(result[:, ::step, ::step], RECORDED[f"{convention}_{name}"], atol=0.01)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("size", "result"), [(1, 5), (3, 7), (32, 299), (299, 32)])
def test_weights_average_two_neighbours(places, size, result):
    """A flat axis stays flat; inside, a ramp stays a ramp: each pixel has the value of its place."""
    weights = matrix(size, result, places)
    assert np.all(weights >= 0) and np.all((weights > 0).sum(axis=1) <= 2)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    place = np.clip(places(size, result), 0, size - 1)
    np.testing.assert_allclose(weights @ np.arange(size), place, rtol=1e-5, atol=1e-5)


def test_where_the_pixels_lie():
    """Twice as many: at 0, ½, 1, 1½ for TensorFlow 1; around the old centres for PyTorch."""
    np.testing.assert_allclose(corners(2, 4), [0, 0.5, 1, 1.5])
    np.testing.assert_allclose(centres(2, 4), [0, 0.25, 0.75, 1.25])
