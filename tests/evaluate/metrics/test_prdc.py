import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.prdc import prdc
from tests.evaluate.metrics.clouds import cloud, table


def by_definition(fake, real, k, k_density):
    """From whole tables: the k-th smallest in a row that starts with a point's distance 0 to itself."""
    of_real, of_fake, between = np.sort(table(real, real)), np.sort(table(fake, fake)), table(fake, real)
    opened = between < of_real[:, k_density]
    return (
        np.mean((between <= of_real[:, k]).any(axis=1)),
        np.mean((of_fake[:, k] >= between.T).any(axis=1)),
        opened.sum(axis=1).mean() / k_density,
        np.mean(opened.any(axis=0)),
    )


@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (5, 2), (1, 1)])
def test_by_the_definitions(k, k_density):
    fake, real = cloud(0, 120) + 0.5, cloud(1, 110)
    assert prdc(fake, real, k, k_density) == pytest.approx(by_definition(fake, real, k, k_density), rel=1e-12)


def test_copies_among_real_and_fake():
    """Ties everywhere: half of the samples are real images, some of these twice."""
    real = np.concatenate([cloud(2, 60), cloud(2, 20)])
    fake = np.concatenate([real[20:70], cloud(3, 50)])
    assert prdc(fake, real) == pytest.approx(by_definition(fake, real, 3, 5), rel=1e-12)


def test_a_set_and_itself():
    points = cloud(4, 120)
    assert prdc(points, points) == pytest.approx((1, 1, 1, 1), rel=1e-12)


def test_far_apart():
    assert prdc(cloud(5, 40), cloud(6, 40) + 100) == (0, 0, 0, 0)


def test_a_lost_mode_costs_recall_and_coverage_alone():
    real = np.concatenate([cloud(7, 120), cloud(8, 120) + 50])
    both, lost = prdc(np.concatenate([cloud(9, 120), cloud(10, 120) + 50]), real), prdc(cloud(11, 120), real)
    assert lost.recall == pytest.approx(both.recall / 2, abs=0.1)
    assert lost.coverage == pytest.approx(both.coverage / 2, abs=0.1)
    assert lost.precision == pytest.approx(both.precision, abs=0.1)


def test_bad_input():
    with pytest.raises(ValueError, match="fake features: at least 4 needed, got 3"):
        prdc(cloud(0, 3), cloud(1, 9))
    with pytest.raises(ValueError, match="real features: at least 6 needed, got 5"):
        prdc(cloud(0, 9), cloud(1, 5))
    with pytest.raises(ValueError, match="different widths: 8 and 3"):
        prdc(cloud(0, 9), cloud(1, 9, 3))
    with pytest.raises(ValueError, match="fake features hold NaN"):
        prdc(cloud(0, 9) * np.nan, cloud(1, 9))
    for k, k_density in ((0, 5), (3, 0)):
        with pytest.raises(ValueError, match=f"at least 1 neighbour, got k={k} and k_density={k_density}"):
            prdc(cloud(0, 9), cloud(1, 9), k, k_density)
