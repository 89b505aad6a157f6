"""The Swiss roll: its points, the sets made of them, what masking one coordinate leaves, and its picture."""

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.datasets import make_swiss_roll

from maskdiff_jax.data import DATASETS, DataError, pipeline
from maskdiff_jax.data.swissroll import FRESH_DISTANCE, GAP, SIDE, density_picture, points, swissroll
from maskdiff_jax.evaluate.sliced import sliced_wasserstein, sliced_wasserstein_reference

LEFT, RIGHT = np.s_[GAP : GAP + SIDE, GAP : GAP + SIDE], np.s_[GAP : GAP + SIDE, -GAP - SIDE : -GAP]


def shuffled(at):
    """The product of the marginals: y of another point."""
    return np.stack([at[:, 0], np.random.default_rng(0).permutation(at[:, 1])], axis=1)


def images(at):
    return at.reshape(-1, 1, 2, 1)


def test_without_noise_the_radius_is_the_angle_and_uniform():
    at = points(5000, seed=1, noise=0.0).astype(np.float64) * 4.5 * np.pi
    t = np.hypot(*at.T)
    np.testing.assert_allclose(at, np.stack([t * np.cos(t), t * np.sin(t)], axis=1), atol=1e-4)
    assert kstest((t / np.pi - 1.5) / 3, "uniform").pvalue > 0.01


def test_the_roll_is_that_of_scikit_learn_without_its_third_axis():
    noise = 0.5
    theirs, _ = make_swiss_roll(20_000, noise=noise, random_state=0)
    ours = points(20_000, seed=2, noise=noise)
    assert sliced_wasserstein(ours, theirs[:, [0, 2]] / (4.5 * np.pi + 4 * noise)) < 1.5 * FRESH_DISTANCE


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_points_fill_the_range_and_no_more(noise):
    at = points(20_000, seed=3, noise=noise)
    assert at.dtype == np.float32 and at.shape == (20_000, 2)
    assert 0.8 < np.abs(at).max() <= 1
    assert np.mean(np.abs(at) == 1) < 1e-4


def test_fresh_sets_are_fresh():
    """Of another seed, or of no data set: no two share a coordinate; the same seed gives the same set."""
    data = swissroll(train=500, heldout=200, seed=4)
    sets = [
        points(500, seed=4),
        points(500, seed=5),
        data.train.image.reshape(-1, 2),
        data.heldout.image.reshape(-1, 2),
    ]
    x = np.concatenate(sets)[:, 0]
    assert len(np.unique(x)) > len(x) - 5  # float32 may tie by chance
    correlation = np.corrcoef([part[:200, 0] for part in sets])
    assert np.abs(correlation - np.eye(4)).max() < 0.3
    np.testing.assert_array_equal(points(500, seed=4), sets[0])


@pytest.mark.parametrize("epoch", [0, 1])
def test_no_epoch_is_sorted_by_angle(epoch):
    """The order of a run's batches is drawn from the same seed as the points, and must not depend on them."""
    at = swissroll(train=2000, heldout=10).train.image.reshape(-1, 2)
    ordered = at[pipeline.shuffled(epoch * 2000 + np.arange(2000), 2000, seed=0)]
    assert abs(np.corrcoef(np.hypot(*ordered.T), np.arange(2000))[0, 1]) < 0.1


def test_two_fresh_sets_are_as_far_apart_as_documented():
    assert sliced_wasserstein_reference(points(20_000, seed=6), 64, repeats=12) == pytest.approx(
        FRESH_DISTANCE, rel=0.2
    )


def test_the_marginals_do_not_determine_the_roll():
    """What a network learns that sees one coordinate at a time: each is exact, and together they are far away."""
    at = points(10_000, seed=7)
    primer = shuffled(at)
    for axis in (0, 1):
        assert sliced_wasserstein(primer[:, [axis]], at[:, [axis]]) == 0
    distance = sliced_wasserstein(primer, points(10_000, seed=8))
    assert distance == pytest.approx(0.047, rel=0.15)
    assert distance > 3 * 1.5 * FRESH_DISTANCE


def test_images_of_one_row_and_two_tokens():
    data = swissroll(train=30, heldout=12)
    assert (data.name, data.shape, data.classes, data.dtype) == ("swissroll", (1, 2, 1), 0, "float32")
    for source, count in ((data.train, 30), (data.heldout, 12)):
        records = source.fetch(np.array([2, 0, 2]))
        assert len(source) == count and set(records) == {"image"}
        assert records["image"].dtype == np.float32 and records["image"].shape == (3, 1, 2, 1)
        np.testing.assert_array_equal(records["image"][0], records["image"][2])
    assert DATASETS["swissroll"] is swissroll


def test_the_fingerprint_sees_every_option():
    options = ({}, {"train": 31}, {"heldout": 13}, {"noise": 0.4}, {"seed": 1})
    base = {"train": 30, "heldout": 12}
    assert len({swissroll(**{**base, **option}).fingerprint for option in options}) == len(options)
    assert swissroll(**base).fingerprint == swissroll(**base).fingerprint


def test_the_picture_shows_the_data_left_and_the_samples_right():
    data = swissroll(train=20_000, heldout=10)
    fresh, dots = points(20_000, seed=9), np.full((50, 2), 0.5, np.float32)
    picture, other = data.draw(images(fresh)), data.draw(images(dots))
    assert picture.dtype == np.uint8 and picture.shape == (SIDE + 2 * GAP, 2 * SIDE + 3 * GAP, 3)
    np.testing.assert_array_equal(picture[LEFT], other[LEFT])
    brightness = [p.astype(float).sum(axis=2)[30:].ravel() for p in (picture[LEFT], picture[RIGHT])]  # below the names
    assert np.corrcoef(brightness)[0, 1] > 0.95
    row, column = np.unravel_index(other[RIGHT][30:].astype(int).sum(axis=2).argmax(), (SIDE - 30, SIDE))
    assert row + 30 < SIDE / 2 < column  # (0.5, 0.5): x to the right, y up
    frame = np.ones(picture.shape[:2], bool)
    frame[LEFT] = frame[RIGHT] = False
    assert len(np.unique(picture[frame], axis=0)) == 1


def test_samples_outside_the_view_leave_the_rest_as_it_is():
    """One kernel density: half the samples are gone, so the others are half as dense, and dimmer."""
    at = points(5000, seed=10)
    whole = density_picture(at, at).astype(int)
    for lost in (np.nan, np.inf, 50.0):
        half = density_picture(at, np.where(np.arange(5000)[:, None] % 2, at, lost)).astype(int)
        assert 0.5 < half[RIGHT][30:].sum() / whole[RIGHT][30:].sum() < 0.98
    empty = density_picture(at, np.zeros((0, 2)))
    assert len(np.unique(empty[RIGHT][30:].reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("options", [{"train": 0}, {"heldout": 0}, {"noise": -0.1}, {"noise": float("nan")}])
def test_bad_options_are_refused(options):
    with pytest.raises(DataError, match=next(iter(options))):
        swissroll(**{"train": 10, "heldout": 10, **options})


def test_data_out_of_view_are_refused():
    with pytest.raises(ValueError, match="none of the 3 points"):
        density_picture(np.full((3, 2), 9.0), np.zeros((3, 2)))
