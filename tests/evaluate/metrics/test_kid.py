import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.kid import discrepancy, kid
from tests.evaluate.metrics.clouds import cloud


def kernel(a, b):
    return (sum(float(i) * float(j) for i, j in zip(a, b, strict=True)) / len(a) + 1) ** 3


def test_by_the_definition():
    x, y = cloud(0, 7, 3), cloud(1, 5, 3) + 1
    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert discrepancy(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_closed_form_on_a_line():
    """(xy + 1)³ = Σ (3 choose j) xʲyʲ: the discrepancy is Σ (3 choose j) (E xʲ - E yʲ)². Here y = -x, x in {1, 2}."""
    draw = np.random.default_rng(0)
    x, y = 1.0 + draw.integers(0, 2, (4000, 1)), -1.0 - draw.integers(0, 2, (4000, 1))
    expected = 3 * 3**2 + 9**2  # the first and third moments are 1.5 and 4.5 of either sign, the second is equal
    assert kid(x, y, subsets=20, size=400).mean == pytest.approx(expected, rel=0.04)


def test_no_bias_whatever_the_size():
    """Two sets of one distribution: the mean over 200 subsets is 0 within its error, for small ones, too."""
    fake, real = cloud(2, 2000), cloud(3, 2000)
    for size in (5, 50):
        mean, deviation = kid(fake, real, subsets=200, size=size)
        assert abs(mean) < 4 * deviation / 200**0.5


def test_a_subset_of_everything():
    """Where each subset is the whole set there is no deviation, and the value is that of the sets."""
    fake, real = cloud(4, 30), cloud(5, 30) + 0.5
    mean, deviation = kid(fake, real, subsets=3, size=30)
    assert mean == pytest.approx(discrepancy(fake, real), rel=1e-10)
    assert deviation < 1e-10 * abs(mean)


def test_only_the_seed_decides_the_subsets():
    fake, real = cloud(6, 90), cloud(7, 80)
    assert kid(fake, real, 5, 20) == kid(fake, real, 5, 20) != kid(fake, real, 5, 20, seed=1)
    assert kid(fake, real, 5, 20) == kid(fake.astype(np.float64), real.astype(np.float64), 5, 20)


@pytest.mark.parametrize(
    ("fake", "real", "options", "message"),
    [
        (cloud(0, 9), cloud(1, 20), {}, "fake features for kid: at least 10 needed, got 9"),
        (cloud(0, 20), cloud(1, 9), {}, "real features for kid: at least 10 needed, got 9"),
        (cloud(0, 20), cloud(1, 20, 3), {}, "different widths: 8 and 3"),
        (cloud(0, 20), cloud(1, 20) * np.nan, {}, "real features for kid hold NaN"),
        (cloud(0, 20), cloud(1, 20), {"size": 1}, "subsets ≥ 1 and size ≥ 2, got 100 and 1"),
        (cloud(0, 20), cloud(1, 20), {"subsets": 0}, "subsets ≥ 1 and size ≥ 2, got 0 and 10"),
    ],
)
def test_bad_input(fake, real, options, message):
    with pytest.raises(ValueError, match=message):
        kid(fake, real, **{"size": 10, **options})
