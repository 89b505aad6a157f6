import numpy as np
import pytest

from maskdiff_jax.evaluate.frechet import merge
from maskdiff_jax.evaluate.metrics.moments import Moments, add, fid, moments
from tests.evaluate.metrics.clouds import cloud


def assert_moments(found, features):
    assert found.count == len(features)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    exact = features.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T), rtol=1e-9, atol=1e-9)


def test_batches_of_any_size_and_their_union():
    features = cloud(0, 501, offset=1e3)  # a large mean: sums of float32 would drift
    seen = None
    for batch in np.split(features, [1, 2, 130, 131, 400]):
        seen = add(seen, batch)
    assert_moments(seen, features)
    assert_moments(merge(moments(features[200:]), moments(features[:200])), features)
    assert_moments(moments(features, block=64), features)


@pytest.mark.parametrize("n", [2, 10, 300])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_set_is_at_zero_from_itself(n, scale):
    """With fewer features than dimensions, too: the covariance is singular then."""
    some = moments(cloud(1, n, 40) * scale)
    assert 0 <= fid(some, some) <= 1e-6 * np.trace(some.covariance)


def test_closed_form_of_a_shift_and_a_scale():
    """Of features x and a·x + b the distance is ‖(a - 1)·mean + b‖² + (a - 1)² tr Σ, for n < d as for n > d."""
    for n in (20, 200):
        x = moments(cloud(2, n, 40).astype(np.float64))
        y = moments(cloud(2, n, 40).astype(np.float64) * 1.5 + 0.25)
        expected = np.sum((0.5 * x.mean + 0.25) ** 2) + 0.25 * np.trace(x.covariance)
        assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_bad_input():
    good = moments(cloud(3, 9))
    with pytest.raises(ValueError, match="at least 2 samples in each set, got 1"):
        fid(moments(cloud(3, 1)), good)
    with pytest.raises(ValueError, match="widths: 8 and 4"):
        fid(good, moments(cloud(3, 9, 4)))
    with pytest.raises(ValueError, match="widths: 8 and 4"):
        add(good, cloud(3, 9, 4))
    with pytest.raises(ValueError, match="samples hold NaN or infinity, first in row 2 of 3"):
        add(good, np.array([[0.0] * 8, [1.0] * 8, [np.nan] * 8]), "samples")
    with pytest.raises(ValueError, match="finite"):
        fid(good, Moments(good.mean, good.covariance * np.inf, 9))
