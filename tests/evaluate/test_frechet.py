import numpy as np
import pytest

from maskdiff_jax.evaluate.frechet import Statistics, frechet, merge, statistics


def rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def gaussian(rng, variances, mean=None, basis=None, count=100):
    d = len(variances)
    basis = rotation(rng, d) if basis is None else basis
    return Statistics(np.zeros(d) if mean is None else mean, (basis * variances) @ basis.T, count)


def features(rng, n, d, scale=1.0):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * scale + rng.normal(size=d)


@pytest.mark.parametrize("zeros", [0, 3, 10])
def test_commuting_covariances(rng, zeros):
    """In a common eigenbasis the distance is ‖Δmean‖² + Σ (√λ_a - √λ_b)², of any rank."""
    a, b, shift = rng.uniform(0.1, 4, 12), rng.uniform(1e-9, 4, 12), rng.normal(size=12)
    a[:zeros], b[12 - zeros :] = 0, 0
    basis = rotation(rng, 12)
    expected = np.sum(shift**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    distance = frechet(gaussian(rng, a, shift, basis), gaussian(rng, b, basis=basis))
    np.testing.assert_allclose(distance, expected, rtol=1e-9)


def test_two_dimensions(rng):
    """tr (S_a S_b)^½ of 2×2 matrices is (tr S_a S_b + 2 √det S_a S_b)^½, commuting or not."""
    a, b = gaussian(rng, np.array([3.0, 0.2])), gaussian(rng, np.array([0.5, 2.0]), np.array([1.0, -2.0]))
    product = a.covariance @ b.covariance
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 5 + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root
    np.testing.assert_allclose(frechet(a, b), expected, rtol=1e-12)


def test_root_of_the_product(rng):
    """The definition, by the eigenvalues of S_a^½ S_b S_a^½ where both are regular."""
    a, b = statistics([features(rng, 200, 16)]), statistics([features(rng, 300, 16)])
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root)).sum()
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance) - 2 * cross
    np.testing.assert_allclose(frechet(a, b), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 10, 300], ids=lambda n: f"n{n}")
@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_identical_sets(rng, n, scale):
    s = statistics([features(rng, n, 40, scale)])
    assert 0 <= frechet(s, s) <= 1e-6 * np.trace(s.covariance)


def test_identical_images():
    s = statistics([np.ones((5, 3))])
    assert frechet(s, s) == 0
    assert frechet(s, statistics([np.zeros((5, 3))])) == 3


@pytest.mark.parametrize(("n", "m"), [(8, 300), (8, 9), (300, 200)])
def test_symmetric_and_positive(rng, n, m):
    a, b = statistics([features(rng, n, 40)]), statistics([features(rng, m, 40)])
    there, back = frechet(a, b), frechet(b, a)
    assert there > 0
    np.testing.assert_allclose(there, back, rtol=1e-10)


def test_streamed_equals_direct(rng):
    x = features(rng, 501, 7).astype(np.float32) + np.float32(1e3)  # a large mean: naive float32 sums would drift
    cuts = [x[:1], x[1:1], x[1:130], x[130:]]
    for s in (statistics(iter(cuts)), merge(statistics(cuts[2:]), statistics(cuts[:2]))):
        assert s.count == 501
        assert s.mean.dtype == s.covariance.dtype == np.float64
        np.testing.assert_allclose(s.mean, x.astype(np.float64).mean(0), rtol=1e-13)
        np.testing.assert_allclose(s.covariance, np.cov(x.astype(np.float64).T), rtol=1e-9, atol=1e-9)


def test_a_count_that_nobody_knows(rng):
    """The distance does not depend on it: statistics from elsewhere need not have one."""
    a, b = statistics([features(rng, 30, 4)]), statistics([features(rng, 30, 4)])
    assert frechet(a._replace(count=0), b) == frechet(a, b)


def test_bad_input(rng):
    good = statistics([features(rng, 9, 4)])
    with pytest.raises(ValueError, match="at least 2 samples in each set, got 1"):
        frechet(good, statistics([np.zeros((1, 4))]))
    with pytest.raises(ValueError, match="widths: 4 and 5"):
        frechet(good, statistics([np.zeros((3, 5))]))
    with pytest.raises(ValueError, match="NaN"):
        frechet(good, good._replace(mean=good.mean * np.nan))
    with pytest.raises(ValueError, match="NaN"):
        statistics([np.array([[0.0, np.inf]])])
    with pytest.raises(ValueError, match="unknown count"):
        merge(good, good._replace(count=0))
    with pytest.raises(ValueError, match="no features"):
        statistics([])
    with pytest.raises(ValueError, match=r"\[b, d\], got shape \[2, 2, 1\]"):
        statistics([np.zeros((2, 2, 1))])


@pytest.fixture
def rng():
    return np.random.default_rng(0)
