import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.balls import count
from maskdiff_jax.evaluate.metrics.neighbours import others
from tests.evaluate.metrics.clouds import cloud, table


def assert_counts(points, centres, squares, **options):
    held = table(points, centres)[None] <= squares[:, None, :]
    found = count(points, centres, squares, **options)
    np.testing.assert_array_equal(found.of_points, held.sum(axis=2))
    np.testing.assert_array_equal(found.of_balls, held.sum(axis=1))
    assert 0 < held.sum() < held.size  # some are in, some are not


@pytest.mark.parametrize("block", [(512, 2048), (64, 32)])
def test_brute_force(block):
    points, centres = cloud(0, 75, offset=100), cloud(1, 110, offset=100)
    near = others(centres, 5).squares
    assert_counts(points, centres, np.stack([near[:, 2], near[:, 4]]), block=block)


def test_a_point_at_the_very_radius():
    """Points that are the k-th neighbours themselves: closed balls hold them, open ones do not."""
    centres = cloud(2, 200, offset=1e3)
    near = others(centres, 3)
    points = centres[near.indices[:, 2]]
    squares = np.stack([near.squares[:, 2], np.nextafter(near.squares[:, 2], -1)])
    assert_counts(points, centres, squares)
    closed, opened = (count(points, centres, squares[[i]]).of_balls[0] for i in (0, 1))
    touching = (table(points, centres) == squares[0]).sum(axis=0)
    assert (touching > 0).all()
    np.testing.assert_array_equal(closed - opened, touching)


def test_balls_on_a_lattice():
    """Radii that hundreds of points touch, and balls of radius 0 around copies."""
    draw = np.random.default_rng(0)
    points, centres = (draw.integers(0, 2, (n, 8)).astype(np.float32) for n in (250, 200))
    squares = np.stack([draw.integers(0, 5, 200).astype(float), np.zeros(200), np.full(200, np.nextafter(0.0, -1))])
    assert_counts(points, centres, squares)
    assert count(points, centres, squares[2:]).of_points.sum() == 0


def test_an_outlier_does_not_blur_the_others():
    points, centres = cloud(3, 100), cloud(4, 100)
    points[0] = 1e12
    assert_counts(points, centres, others(centres, 3).squares[:, 2][None])


def test_bad_radii():
    for squares in (np.zeros((1, 3)), np.zeros(4), np.full((1, 4), np.nan)):
        with pytest.raises(ValueError, match=r"radii must be numbers \[s, 4\]"):
            count(cloud(0, 5), cloud(1, 4), squares)
    with pytest.raises(ValueError, match="different widths: 8 and 3"):
        count(cloud(0, 5), cloud(1, 4, 3), np.zeros((1, 4)))
