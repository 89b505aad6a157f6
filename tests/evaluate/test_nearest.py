import numpy as np
import pytest

from maskdiff_jax.evaluate.nearest import closest, copied_share, nearest, nearest_distance


def images(seed, n, shape=(4, 3, 2)):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def test_brute_force():
    queries, references = images(0, 33), images(1, 50)
    table = np.sqrt(np.square(queries[:, None].astype(np.float64) - references[None]).sum(axis=(2, 3, 4)))
    distance, index = nearest(queries, references)
    np.testing.assert_array_equal(index, table.argmin(1))
    np.testing.assert_allclose(distance, table.min(1), rtol=1e-12)
    assert nearest_distance(queries, references) == pytest.approx(table.min(1).mean(), rel=1e-12)


def test_copies_are_at_exactly_zero():
    references = images(1, 50) + np.float32(10)
    distance, index = nearest(references[[7, 3]], references)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, [7, 3])


def test_bad_input():
    with pytest.raises(ValueError, match="different shapes"):
        nearest(images(0, 3), images(0, 3, (4, 3, 1)))
    with pytest.raises(ValueError, match="non-empty sets, got 3 and 0"):
        nearest(images(0, 3), images(0, 0))
    for queries, references in ((images(0, 3) * np.nan, images(0, 3)), (images(0, 3), images(0, 3) * np.nan)):
        with pytest.raises(ValueError, match="NaN"):
            nearest(queries, references)


def test_the_two_nearest_by_brute_force():
    queries, references = images(0, 20), images(1, 30)
    table = np.sqrt(np.square(queries[:, None].astype(np.float64) - references[None]).sum(axis=(2, 3, 4)))
    distance, index = closest(queries, references, 3)
    np.testing.assert_array_equal(index, table.argsort(1)[:, :3])
    np.testing.assert_allclose(distance, np.sort(table, axis=1)[:, :3], rtol=1e-12)


def test_the_share_of_copies_is_the_share_that_was_copied():
    """Half of the queries are training images with a little noise, the others are fresh."""
    references, fresh = images(1, 50), images(2, 10)
    copies = references[:10] + 0.01 * images(3, 10)
    assert copied_share(np.concatenate([copies, fresh]), references) == 0.5
    assert copied_share(fresh, references) == 0
    with pytest.raises(ValueError, match="2 references"):
        copied_share(fresh, references[:1])


def test_few_dimensions_by_brute_force():
    """Points of two numbers, which a tree finds."""
    queries, references = images(0, 200, (1, 2, 1)), images(1, 300, (1, 2, 1))
    table = np.sqrt(np.square(queries[:, None].astype(np.float64) - references[None]).sum(axis=(2, 3, 4)))
    for k in (1, 3):
        distance, index = closest(queries, references, k)
        np.testing.assert_array_equal(index, table.argsort(1)[:, :k])
        np.testing.assert_allclose(distance, np.sort(table, axis=1)[:, :k], rtol=1e-12)
    np.testing.assert_array_equal(nearest(references[[7, 3]], references)[0], 0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN"):
            nearest(queries * np.float32(bad), references)
