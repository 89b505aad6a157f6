import time

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from maskdiff_jax.evaluate.sliced import sliced_wasserstein, sliced_wasserstein_reference


def cloud(seed, n, d=2):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1)


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_closed_form_of_a_shift(d):
    """⟨v, θ⟩² is |v|²/d on average over the sphere, and order 1 in the plane gives |v|·2/π."""
    points, v = cloud(0, 20, d), np.arange(1.0, d + 1)
    distance = sliced_wasserstein(points, points + v, projections=40_000)
    assert distance == pytest.approx(np.linalg.norm(v) / d**0.5, rel=0.02)
    if d == 2:
        distance = sliced_wasserstein(points, points + v, projections=40_000, order=1)
        assert distance == pytest.approx(np.linalg.norm(v) * 2 / np.pi, rel=0.02)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (50, 50), (50, 33), (7, 100), (12, 18), (1, 9)])
def test_on_a_line_order_one_is_that_of_scipy(n, m):
    a, b = cloud(1, n, 1), cloud(2, m, 1) + 0.3
    expected = wasserstein_distance(a[:, 0], b[:, 0])
    assert sliced_wasserstein(a, b, projections=3, order=1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3.5])
@pytest.mark.parametrize(("n", "m"), [(4, 6), (5, 3), (6, 3)])
def test_sets_of_different_sizes_are_those_repeated_to_one_size(n, m, order):
    """Repeating every point leaves the empirical distribution as it is; at one size the plan joins equal ranks."""
    a, b = cloud(3, n, 1), cloud(4, m, 1)
    same = np.sort(a.repeat(m, axis=0), axis=0) - np.sort(b.repeat(n, axis=0), axis=0)
    expected = np.mean(np.abs(same) ** order) ** (1 / order)
    assert sliced_wasserstein(a, b, projections=2, order=order) == pytest.approx(expected, rel=1e-12)


def test_every_direction_is_one_line():
    """In three dimensions: the mean over the shadows on directions that are drawn here again."""
    a, b = cloud(5, 40, 3), cloud(6, 25, 3)
    theta = np.random.Generator(np.random.Philox(key=9)).standard_normal((70, 3))
    lines = [t / np.linalg.norm(t) for t in theta]
    expected = np.mean([wasserstein_distance(a @ line, b @ line) for line in lines])
    assert sliced_wasserstein(a, b, projections=70, order=1, seed=9) == pytest.approx(expected, rel=1e-12)


def test_it_is_a_distance():
    a, b, c = cloud(7, 60), cloud(8, 45) * 2, cloud(9, 60) + 1
    assert sliced_wasserstein(a, a) == 0
    assert sliced_wasserstein(a, a[::-1]) == 0
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a), rel=1e-12)
    assert sliced_wasserstein(3 * a, 3 * b) == pytest.approx(3 * sliced_wasserstein(a, b), rel=1e-12)
    assert sliced_wasserstein(a + 5, b + 5) == pytest.approx(sliced_wasserstein(a, b), rel=1e-9)
    assert sliced_wasserstein(a, c) <= sliced_wasserstein(a, b) + sliced_wasserstein(b, c)
    assert sliced_wasserstein(a, b, order=1) <= sliced_wasserstein(a, b, order=2)


def test_only_the_seed_decides_the_directions():
    a, b = cloud(10, 30).astype(np.float32), cloud(11, 30) + 1
    np.random.seed(0)
    first = sliced_wasserstein(a, b, 16)
    np.random.seed(1)
    assert sliced_wasserstein(a.astype(np.float64), b, 16) == first != sliced_wasserstein(a, b, 16, seed=1)


def test_the_reference_is_the_distance_of_fresh_sets():
    """Halves of 2n points are as far apart as two fresh sets of n, and 4 times as many points half as far."""
    fresh = [sliced_wasserstein(cloud(i, 400), cloud(100 + i, 400), 32) for i in range(40)]
    halves = [sliced_wasserstein_reference(cloud(200 + i, 800), 32) for i in range(10)]
    error = np.std(fresh) / 40**0.5 + np.std(halves) / 10**0.5
    assert abs(np.mean(fresh) - np.mean(halves)) < 4 * error
    more = [sliced_wasserstein_reference(cloud(300 + i, 3200), 32) for i in range(10)]
    assert np.mean(more) / np.mean(halves) == pytest.approx(0.5, rel=0.2)
    assert halves[0] == sliced_wasserstein_reference(cloud(200, 800), 32)


def test_ten_thousand_points_take_well_under_a_second():
    a, b = cloud(12, 10_000), cloud(13, 10_000)
    start = time.process_time()
    sliced_wasserstein(a, b)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), {}, "points of different widths: 2 and 1"),
        (np.zeros((0, 2)), np.zeros((3, 2)), {}, r"n ≥ 1 and d ≥ 1, got shape \[0, 2\]"),
        (np.zeros((3, 2)), np.zeros(3), {}, r"got shape \[3\]"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), {}, "points hold NaN or infinity"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"projections": 0}, "got 0 and 2"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"order": 0.5}, "got 256 and 0.5"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"order": np.inf}, "got 256 and inf"),
    ],
)
def test_bad_input(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(a, b, **options)


def test_a_reference_needs_two_points():
    with pytest.raises(ValueError, match=r"got shape \[0, 2\]"):
        sliced_wasserstein_reference(np.zeros((1, 2)))
