import jax
import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.distances import above, below, bounds, checked, frame, norms, place, squared
from tests.evaluate.metrics.clouds import cloud, table

two_bounds = jax.jit(bounds)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("outlier", [0.0, 1e3, 1e9])
def test_the_bounds_hold_and_are_tight(dtype, offset, scale, outlier):
    a, b = (cloud(seed, 60).astype(np.float64) + offset for seed in (0, 1))
    b[7] += outlier
    a, b = (a * scale).astype(dtype), (b * scale).astype(dtype)
    axes = frame(a, b)
    placed = [place(x, norms(x, axes), axes, 64) for x in (a, b)]
    low, high = (np.asarray(bound, np.float64)[:60, :60] for bound in two_bounds(*placed))
    exact = table(a, b) * axes.scale**2
    assert (low <= exact).all()
    assert (exact <= high).all()
    size = sum(np.square((x - axes.centre) * axes.scale).sum(axis=2) for x in np.broadcast_arrays(a[:, None], b))
    assert (high - low <= 4 * 24 * 2.0**-24 * size + 1e-36).all()


def test_what_fills_a_block_is_infinitely_far():
    a, b = cloud(0, 3), cloud(1, 5)
    axes = frame(a, b)
    low, high = two_bounds(place(a, norms(a, axes), axes, 4), place(b, norms(b, axes), axes, 8))
    for bound in (np.asarray(low), np.asarray(high)):
        assert np.isposinf(bound[3:]).all()
        assert np.isposinf(bound[:, 5:]).all()
        assert np.isfinite(bound[:3, :5]).all()


def test_limits_lie_on_their_side():
    squares = np.geomspace(1e-40, 4, 1000)
    axes = frame(np.ones((2, 3)), -np.ones((2, 3)))
    assert (below(squares, axes).astype(np.float64) < squares * axes.scale**2).all()
    assert (above(squares, axes).astype(np.float64) > squares * axes.scale**2).all()
    assert below(np.array([-5e-324]), axes) < 0


def test_squared_distances_of_pairs_are_symmetric_to_the_last_bit():
    a, b = cloud(2, 300, 70, 100), cloud(3, 300, 70, 100)
    i, j = np.random.default_rng(0).integers(0, 300, (2, 1000))
    there = squared(a, i, b, j)
    np.testing.assert_array_equal(there, squared(b, j, a, i))
    np.testing.assert_allclose(there, table(a, b)[i, j], rtol=1e-14)
    np.testing.assert_array_equal(squared(a, i, a, i), 0)
    np.testing.assert_array_equal(there[5:6], squared(a, i[5:6], b, j[5:6]))


@pytest.mark.parametrize(
    ("features", "least", "message"),
    [
        (np.zeros((3, 2, 1)), 1, r"samples must be \[n, d\] with d ≥ 1, got shape \[3, 2, 1\]"),
        (np.zeros((3, 0)), 1, r"got shape \[3, 0\]"),
        (np.zeros((3, 2)), 4, "samples: at least 4 needed, got 3"),
        (np.zeros((0, 2)), 1, "samples: at least 1 needed, got 0"),
        (np.zeros((3, 2), np.uint8), 1, "samples must be float32 or float64, got uint8"),
        (np.array([[0.0, 1], [np.nan, 1], [0, np.nan]]), 1, "samples hold NaN or infinity, first in row 1 of 3"),
        (np.pad([[np.inf]], ((2999, 5), (0, 0))), 1, "first in row 2999 of 3005"),
    ],
)
def test_bad_features_are_named(features, least, message):
    with pytest.raises(ValueError, match=message):
        checked(features, "samples", least)
