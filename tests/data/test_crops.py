"""Crop policies: what is recorded, applied by hand to the originals, gives the pixels that training sees."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from maskdiff_jax.data import AUGMENTS, Batches, feed, for_heldout, low_resolution, to_uint8
from tests.data.conftest import numbered

POLICIES = {
    "resize_centre": {"size": 5, "rate": 0.5},
    "random_crop": {"size": 5, "rate": 0.5},
    "local_crop": {"size": 6, "low": 0.4, "high": 0.9, "ratio": 1.6, "rate": 0.5},
}


def by_hand(original: np.ndarray, controls: dict, size: int) -> np.ndarray:
    """The recorded window of one original, resized by Pillow in floating point, and mirrored where recorded."""
    top, left, height, width = (controls[f"crop_{name}"] for name in ("top", "left", "height", "width"))
    window = original[top : top + height, left : left + width].astype(np.float32)
    planes = [Image.fromarray(window[..., c]).resize((size, size), Image.Resampling.BILINEAR) for c in range(3)]
    resized = np.stack(planes, -1).astype(np.float64)
    return resized[:, ::-1] if controls["flip"] else resized


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_recorded_controls_reproduce_the_batch(name, resident):
    """Through the stream of batches and the jitted step; pixels are within 0.6 of a level of the exact ones."""
    source, augment = numbered(12, (9, 14, 3)), AUGMENTS[name](**POLICIES[name])
    batches, ingest, table = feed(source, 16, 3, augment, resident=resident, prefetch=0)
    host, step = Batches(source, 16, 3, augment), jax.jit(ingest)
    flips = set()
    for s in range(2):
        raw, expected = next(batches), host.at(s)
        seen = to_uint8(np.asarray(step(raw, table).image))
        np.testing.assert_array_equal(seen, augment.apply(expected["image"], expected["controls"]))
        for i, index in enumerate(expected["index"]):
            controls = {key: int(values[i]) for key, values in raw["controls"].items()}
            assert np.abs(seen[i] - by_hand(source.image[index], controls, augment.shape((9, 14, 3))[0])).max() < 0.6
            flips.add(controls["flip"])
    assert flips == {0, 1}
    batches.close()


@pytest.mark.parametrize("shape", [(6, 15, 3), (15, 6, 3)])
def test_a_crop_of_the_shorter_side_is_a_copy(shape):
    """The window of `random_crop` lies anywhere along the longer side, with equal chances; held out, in the middle."""
    augment, images = AUGMENTS["random_crop"](6), numbered(3, shape).image
    controls = augment.controls(0, np.arange(10_000), shape)
    assert (controls["crop_height"] == 6).all() and (controls["crop_width"] == 6).all()
    along, across = ("left", "top") if shape[1] > 6 else ("top", "left")
    assert (controls[f"crop_{across}"] == 0).all()
    counts = np.bincount(controls[f"crop_{along}"])
    assert len(counts) == 10 and stats.chisquare(counts).pvalue > 1e-4
    for policy in (augment, for_heldout(augment)):
        drawn = policy.controls(0, np.arange(3), shape)
        for image, window, top, left in zip(
            images, policy.apply(images, drawn), drawn["crop_top"], drawn["crop_left"], strict=True
        ):
            np.testing.assert_array_equal(window, image[top : top + 6, left : left + 6])
    np.testing.assert_array_equal(drawn[f"crop_{along}"], 4)  # (15 - 6) // 2


def test_local_crops_have_the_stated_distribution():
    """Sides uniform in their range, shapes log-uniform, all inside of the image, and nowhere the same twice."""
    shape = (300, 500, 3)
    drawn = AUGMENTS["local_crop"](8, low=0.2, high=0.6, ratio=1.5).controls(1, np.arange(5000), shape)
    top, left, height, width, flip = (values.astype(float) for values in drawn.values())
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 300 and (left + width).max() <= 500
    assert stats.kstest(np.sqrt(height * width) / 300, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-4
    assert stats.kstest(np.log(width / height) / np.log(1.5), stats.uniform(-1, 2).cdf).pvalue > 1e-4
    for corner, free in ((top, 300 - height), (left, 500 - width)):
        assert stats.kstest((corner + 0.5) / (free + 1), "uniform").pvalue > 1e-4
    squares = AUGMENTS["local_crop"](8, low=0.2, high=0.6).controls(1, np.arange(5000), shape)
    np.testing.assert_array_equal(squares["crop_height"], squares["crop_width"])
    assert not flip.any()


def test_a_local_crop_of_the_whole_side_is_a_random_crop():
    local, whole = AUGMENTS["local_crop"](4, low=1.0), AUGMENTS["random_crop"](4)
    for name, values in whole.controls(0, np.arange(50), (6, 11, 1)).items():
        np.testing.assert_array_equal(local.controls(0, np.arange(50), (6, 11, 1))[name], values)


def test_low_resolution_is_the_mean_of_squares_for_all_images():
    images, augment = numbered(5, (8, 12, 1)).image, low_resolution(4)
    reduced = np.floor(images.reshape(5, 4, 2, 6, 2, 1).astype(float).mean(axis=(2, 4)) + 0.5)
    for policy in (augment, for_heldout(augment)):
        np.testing.assert_array_equal(policy.apply(images, {}), reduced)


@pytest.mark.parametrize("name", ["resize_centre", "random_crop", "local_crop", "low_resolution"])
def test_errors(name):
    with pytest.raises(ValueError, match="size=0: must be at least 1"):
        AUGMENTS[name](0)
    with pytest.raises(ValueError, match="size=9: images of 8x12 pixels are"):
        AUGMENTS[name](9).shape((8, 12, 1))
    with pytest.raises(ValueError, match=r"8-bit images .* got float32"):
        augment = AUGMENTS[name](4)
        augment.apply(np.zeros((1, 8, 8, 1), np.float32), augment.controls(0, np.arange(1), (8, 8, 1)))


@pytest.mark.parametrize(
    "options, message",
    [({"low": 0.0}, "low=0.0, high=1.0"), ({"low": 0.8, "high": 0.6}, "low <= high"), ({"ratio": 0.5}, "ratio=0.5")],
)
def test_errors_of_ranges(options, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTS["local_crop"](4, **options)
