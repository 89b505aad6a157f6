import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from maskdiff_jax.evaluate.metrics.copying import cell_scores, cells_of, copying_score, z_score
from tests.evaluate.metrics.clouds import cloud


def draws(seed, *sizes):
    draw = np.random.default_rng(seed)
    return [draw.uniform(size=size) for size in sizes]


@pytest.mark.parametrize(("m", "n"), [(40, 30), (7, 90), (1, 5)])
def test_against_scipy(m, n):
    """The two-sided probability of the normal approximation is that of scipy's test, and the sign that of the pairs."""
    fake, heldout = draws(0, m, n)
    fake += 0.05
    z = z_score(fake, heldout)
    test = mannwhitneyu(fake, heldout, use_continuity=False, method="asymptotic")
    assert 2 * norm.sf(abs(z)) == pytest.approx(test.pvalue, rel=1e-9)
    assert np.sign(z) == np.sign(np.mean(np.sign(fake[:, None] - heldout)))


def test_extremes_and_ties():
    """All pairs on one side: ±mn/2 over the deviation; all equal: 0. Exchanging the sets changes the sign."""
    near, far = draws(1, 20, 30)
    extreme = 300 / np.sqrt(600 * 51 / 12)
    assert z_score(near, far + 2) == pytest.approx(-extreme, rel=1e-12)
    assert z_score(near + 2, far) == pytest.approx(extreme, rel=1e-12)
    assert z_score(near, far) == pytest.approx(-z_score(far, near), rel=1e-12)
    assert z_score(np.zeros(20), np.zeros(30)) == 0
    assert z_score(np.zeros(20), np.repeat([0.0, 1.0], 15)) == pytest.approx(-extreme / 2, rel=1e-12)


def test_standard_normal_where_nothing_is_copied():
    scores = np.array([z_score(*draws(seed, 60, 40)) for seed in range(400)])
    assert abs(scores.mean()) < 4 / 20
    assert scores.std() == pytest.approx(1, abs=0.15)


def test_weights_of_the_cells():
    """Means of z-scores weighted by held-out images; a cell with few samples, or none held out, has no part."""
    fake, heldout = draws(2, 100), draws(3, 60)
    fake, heldout = (
        (fake[0], np.repeat([0, 1, 2, 3], [50, 30, 5, 15])),
        (heldout[0], np.repeat([0, 1, 2], [10, 30, 20])),
    )
    cells = cell_scores(fake, heldout, 10)
    assert [(cell.fake, cell.heldout) for cell in cells] == [(50, 10), (30, 30)]
    expected = [z_score(fake[0][:50], heldout[0][:10]), z_score(fake[0][50:80], heldout[0][10:40])]
    assert [cell.score for cell in cells] == pytest.approx(expected)
    assert copying_score(fake, heldout, 10) == pytest.approx((expected[0] + 3 * expected[1]) / 4, rel=1e-12)
    with pytest.raises(ValueError, match="a cell with at least 51 samples and a held-out image"):
        copying_score(fake, heldout, 51)


def test_cells_are_clusters_of_the_training_images():
    centres = 100 * np.eye(8)[:3]
    train = np.concatenate([cloud(i, 30) + centre for i, centre in enumerate(centres)]).astype(np.float32)
    samples = np.concatenate([cloud(9, 10) + centre for centre in centres])
    (cells,) = cells_of(train, [samples], 3)
    assert [len(set(part)) for part in np.split(cells, 3)] == [1, 1, 1]
    assert len(set(cells)) == 3
    (again,) = cells_of(train, [samples], 3)
    np.testing.assert_array_equal(cells, again)
    for count in (0, 91):
        with pytest.raises(ValueError, match=f"1 .. 90 cells for as many training features, got {count}"):
            cells_of(train, [samples], count)
