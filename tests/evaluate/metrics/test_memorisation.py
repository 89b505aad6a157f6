import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.memorisation import authentic_percent, closest_pairs, copied_share
from maskdiff_jax.evaluate.metrics.neighbours import nearest, others
from tests.evaluate.metrics.clouds import cloud

LINE = np.array([[0.0], [1.0], [10.0], [14.0]])  # training images on a line, 1, 1, 4 and 4 from their nearest other


def test_share_of_copies_on_a_line():
    """d1/d2 is 0.2/0.8, 0.4/0.6, 2/6 (not below a third, to the bit), 0 and 1."""
    samples = np.array([[0.2], [0.4], [8.0], [10.0], [0.5]])
    found = nearest(samples, np.array([[0.0], [1.0], [10.0], [14.0]]), 2)
    assert copied_share(found) == 2 / 5
    assert copied_share(found, 0.7) == 4 / 5
    assert copied_share(found, 0.2) == 1 / 5


def test_a_copy_of_what_was_there_twice():
    train = np.concatenate([LINE, LINE])
    assert copied_share(nearest(LINE, train, 2)) == 1
    assert copied_share(nearest(LINE + 0.1, train, 2)) == 0  # between two equal images nobody can tell


def test_authenticity_on_a_line():
    """A sample is authentic where it is farther from its nearest image than that one from its own nearest other."""
    spacing = others(LINE)
    for sample, authentic in ((0.9, False), (-0.5, False), (-1.5, True), (2.1, True), (6.5, False), (18.5, True)):
        assert authentic_percent(nearest(np.array([[sample]]), LINE), spacing) == 100 * authentic
    assert authentic_percent(nearest(np.array([[-1.0]]), LINE), spacing) == 0  # as far: not farther
    assert authentic_percent(nearest(np.array([[0.9], [2.1], [20.0], [0.0]]), LINE), spacing) == 50


def test_closest_pairs():
    train = cloud(0, 200)
    samples = cloud(1, 50) + 3
    samples[[30, 4]] = train[[17, 99]] + np.array([[1e-4], [1e-5]], np.float32)
    pairs = closest_pairs(nearest(samples, train), 4)
    np.testing.assert_array_equal(pairs.samples[:2], [4, 30])
    np.testing.assert_array_equal(pairs.train[:2], [99, 17])
    np.testing.assert_allclose(pairs.distances[:2], np.sqrt(8) * np.array([1e-5, 1e-4]), rtol=0.05)
    norms = np.linalg.norm(samples[pairs.samples].astype(np.float64) - train[pairs.train], axis=1)
    np.testing.assert_allclose(pairs.distances, norms, rtol=1e-12)
    assert (np.diff(pairs.distances) >= 0).all()
    assert len(closest_pairs(nearest(samples, train), 99).samples) == 50


def test_bad_input():
    found = nearest(cloud(0, 5), cloud(1, 9))
    with pytest.raises(ValueError, match="2 nearest training images of each sample, got 1"):
        copied_share(found)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        closest_pairs(found, 0)
