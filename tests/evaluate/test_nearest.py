import numpy as np
import pytest

from maskdiff_jax.evaluate.nearest import nearest, nearest_distance


def images(seed, n, shape=(4, 3, 2)):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 50, 1024])
def test_brute_force(block):
    queries, references = images(0, 33), images(1, 50)
    table = np.sqrt(np.square(queries[:, None].astype(np.float64) - references[None]).sum(axis=(2, 3, 4)))
    distance, index = nearest(queries, references, block)
    np.testing.assert_array_equal(index, table.argmin(1))
    np.testing.assert_allclose(distance, table.min(1), rtol=1e-12)
    assert nearest_distance(queries, references) == pytest.approx(table.min(1).mean(), rel=1e-12)


def test_copies_are_at_exactly_zero():
    references = images(1, 50) + np.float32(10)
    distance, index = nearest(references[[7, 3]], references, block=8)
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
