import tracemalloc

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.neighbours import nearest, others
from tests.evaluate.metrics.clouds import cloud, table


def assert_nearest(found, squares, indices=True):
    """Squared distances, and with them the ties, are those of the whole table, bit for bit."""
    k = found.squares.shape[1]
    np.testing.assert_array_equal(found.squares, np.sort(squares, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(squares, found.indices, axis=1), found.squares)
    assert all(len(set(row)) == k for row in found.indices.tolist())
    if indices:
        np.testing.assert_array_equal(found.indices, np.argsort(squares, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("k", [1, 8, 50])
@pytest.mark.parametrize("block", [(512, 2048), (64, 32)])
def test_brute_force(k, block):
    queries, references = cloud(0, 75, offset=100), cloud(1, 110, offset=100)
    assert_nearest(nearest(queries, references, k, block=block), table(queries, references))


def test_a_set_and_itself():
    points = cloud(2, 100)
    squares = table(points, points)
    np.fill_diagonal(squares, np.inf)
    assert_nearest(others(points, 3), squares)
    assert_nearest(others(points, 99).first(5), squares)


def test_ties_on_a_lattice():
    """Hundreds of equal distances, and copies: 250 and 700 points on 256 places of a lattice."""
    queries, references = (np.random.default_rng(0).integers(0, 2, (n, 8)).astype(np.float32) for n in (250, 700))
    assert_nearest(nearest(queries, references, 8, block=(256, 256)), table(queries, references), indices=False)
    squares = table(queries, queries)
    np.fill_diagonal(squares, np.inf)
    assert_nearest(others(queries, 7), squares, indices=False)


def test_copies_are_at_exactly_zero():
    """Far from the origin, where the expansion of the square would leave a rest."""
    references = cloud(3, 200, offset=1e4)
    found = nearest(references[[70, 3]], references, 1)
    np.testing.assert_array_equal(found.distances, 0)
    np.testing.assert_array_equal(found.indices, [[70], [3]])


def test_distances_that_float32_does_not_tell_apart():
    """Tight clusters far from each other: within one, the expanded squares are all noise."""
    draw = np.random.default_rng(4)
    centres = 1e3 * draw.normal(size=(10, 8))
    queries = centres[draw.integers(0, 10, 100)] + 1e-6 * draw.normal(size=(100, 8))
    references = centres[draw.integers(0, 10, 700)] + 1e-6 * draw.normal(size=(700, 8))
    assert_nearest(nearest(queries, references, 3, block=(256, 256)), table(queries, references))


def test_a_set_of_one_point_repeated():
    """What a broken generator makes: every query has the same nearest, as often as there are."""
    queries, references = cloud(5, 64), np.repeat(cloud(6, 1), 3000, axis=0)
    found = nearest(queries, references, 3)
    np.testing.assert_array_equal(found.indices, np.broadcast_to(np.arange(3), (64, 3)))
    np.testing.assert_array_equal(found.squares, np.repeat(table(queries, references[:1]), 3, axis=1))
    np.testing.assert_array_equal(others(references, 3).distances, 0)


def test_memory_does_not_grow_with_the_pairs():
    """16 million pairs would be 128 MB of float64; blocks, candidates and their differences are far less."""
    queries, references = cloud(7, 4000), cloud(8, 4000)
    tracemalloc.start()
    nearest(queries, references, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize(
    ("queries", "references", "k", "message"),
    [
        (cloud(0, 5), cloud(1, 5, 4), 1, "different widths: 8 and 4"),
        (cloud(0, 5), cloud(1, 2), 3, "train: at least 3 needed, got 2"),
        (cloud(0, 0), cloud(1, 5), 1, "samples: at least 1 needed, got 0"),
        (cloud(0, 5) * np.nan, cloud(1, 5), 1, "samples hold NaN or infinity, first in row 0 of 5"),
        (cloud(0, 5), cloud(1, 5) * np.inf, 1, "train hold NaN"),
    ],
)
def test_bad_input(queries, references, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, references, k, ("samples", "train"))


def test_others_need_others():
    with pytest.raises(ValueError, match="real features: at least 4 needed, got 3"):
        others(cloud(0, 3), 3, "real features")
