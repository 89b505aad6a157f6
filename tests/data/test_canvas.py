"""Digits on a canvas: what is recorded of each is what is seen of it."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from maskdiff_jax.data import canvas, digits, for_heldout

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def images():
    return digits().train.fetch(np.arange(60))["image"]


def test_recorded_controls_reproduce_the_canvas(images):
    """Drawn by hand, in floating point, from what is recorded: within 1.1 levels (two or three roundings)."""
    augment = canvas()
    controls = augment.controls(0, np.arange(60), SHAPE)
    seen = augment.apply(images, controls).astype(float)
    for i, image in enumerate(images[..., 0].astype(np.float32)):
        top, left, scale, flip, side, other, contrast = (values[i].item() for values in controls.values())
        assert side == other
        image = image[:, ::-1] if flip else image
        image = image if side == 8 else image.reshape(4, 2, 4, 2).mean(axis=(1, 3))
        expected = np.zeros((16, 16))
        rendered = np.asarray(Image.fromarray(image).resize((scale, scale), Image.Resampling.BILINEAR))
        expected[top : top + scale, left : left + scale] = contrast * rendered
        assert np.abs(seen[i, ..., 0] - expected).max() < (1.1 if side == 8 else 1.6)
    assert set(controls["original_height"]) == {4, 8} and set(controls["flip"]) == {0, 1}


def test_a_canvas_that_does_nothing_is_the_image(images):
    augment = canvas(size=8, smallest=8, largest=8, rate=0.0, reduced=0.0, faintest=1.0)
    np.testing.assert_array_equal(augment.apply(images, augment.controls(0, np.arange(60), SHAPE)), images)


def test_draws_have_the_stated_distribution():
    """Each as stated, and none says anything of another, but for the room that a large digit leaves."""
    n = 20_000
    drawn = canvas(rate=0.3, reduced=0.4, faintest=0.25).controls(2, np.arange(n), SHAPE)
    assert stats.chisquare(np.bincount(drawn["scale"], minlength=13)[8:]).pvalue > 1e-4
    for hit, rate in ((drawn["flip"] == 1, 0.3), (drawn["original_height"] == 4, 0.4)):
        assert abs(hit.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    for scale in (8, 12):
        here = drawn["scale"] == scale
        place = drawn["offset_top"][here] * (17 - scale) + drawn["offset_left"][here]
        assert stats.chisquare(np.bincount(place, minlength=(17 - scale) ** 2)).pvalue > 1e-4
    levels = drawn["contrast"] * 256
    assert drawn["contrast"].dtype == np.float32 and (levels == np.rint(levels)).all()
    assert stats.chisquare(np.bincount(levels.astype(int), minlength=257)[64:]).pvalue > 1e-4
    apart = ("scale", "flip", "original_height", "contrast")
    correlation = np.corrcoef([drawn[name] for name in apart]) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_a_grid_leaves_every_place_and_scale_on_it_as_likely():
    drawn = canvas(grid=4).controls(3, np.arange(20_000), SHAPE)
    assert stats.binomtest(int((drawn["scale"] == 8).sum()), 20_000).pvalue > 1e-4
    for scale, places in ((8, (0, 4, 8)), (12, (0, 4))):
        for name in ("offset_top", "offset_left"):
            values, counts = np.unique(drawn[name][drawn["scale"] == scale], return_counts=True)
            assert tuple(values) == places and stats.chisquare(counts).pvalue > 1e-4


def test_heldout_digits_are_on_a_canvas_too(images):
    augment = canvas()
    still = for_heldout(augment)
    drawn = augment.controls(1, np.arange(60), SHAPE)
    for name, values in still.controls(1, np.arange(60), SHAPE).items():
        np.testing.assert_array_equal(values, drawn[name])
    np.testing.assert_array_equal(still.apply(images, drawn), augment.apply(images, drawn))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"largest": 17}, "largest=17"),
        ({"smallest": 0}, "smallest=0"),
        ({"smallest": 13}, "smallest=13"),
        ({"grid": 3}, "grid=3: must be at least 1 and divide largest - smallest = 4"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"reduced": 2}, "reduced=2"),
        ({"factor": 0}, "factor=0"),
        ({"faintest": 0.0}, "faintest=0.0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        canvas(**options)


@pytest.mark.parametrize("shape", [(8, 10, 1), (9, 9, 1)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=f"factor=2: images of {shape[0]}x{shape[1]} pixels"):
        canvas().shape(shape)
