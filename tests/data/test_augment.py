"""Augmentations: drawn as a pure function of (seed, running number), and applied exactly as recorded."""

import jax
import numpy as np
import pytest
from scipy import stats

from maskdiff_jax.data import AUGMENTS, Batches, compose, crop, flip, for_heldout, low_resolution, random_crop, standard
from maskdiff_jax.data.philox import philox, uniform
from tests.data.conftest import numbered

SHAPE = (4, 5, 3)
CASES = {
    "crop": [{"pad": 2}, {"pad": 3, "mode": "reflect"}],
    "standard": [{}, {"pad": 1}, {"rate": 1.0, "pad": 2, "mode": "reflect"}],
    "resize_centre": [{"size": 6}, {"size": 4, "rate": 0.5}],
    "random_crop": [{"size": 6}, {"size": 5, "rate": 0.5}],
    "local_crop": [{"size": 6, "low": 0.2}, {"size": 4, "low": 0.6, "high": 0.9, "ratio": 1.5, "rate": 0.5}],
    "low_resolution": [{"size": 3}],
    "canvas": [
        {},
        {"size": 9, "smallest": 3, "largest": 9, "factor": 4, "reduced": 0.7, "faintest": 0.2},
        {"reduced": 0.7},
    ],
}
SHAPES = {"canvas": (8, 8, 2), "low_resolution": (6, 10, 2)}  # of the images, where it is not (6, 7, 2)
MEMBERS = [
    pytest.param(AUGMENTS[name](**options), SHAPES.get(name, (6, 7, 2)), id=f"{name}-{i}")
    for name in AUGMENTS
    for i, options in enumerate(CASES.get(name, [{}]))
]


@pytest.mark.parametrize("augment, shape", MEMBERS)
def test_controls_belong_to_the_running_number(augment, shape):
    """Draws of a permuted subset are the permuted draws: they depend on no neighbour, batch or order."""
    numbers = np.arange(200, dtype=np.int64) + 2**33
    order = np.random.default_rng(0).permutation(200)[:70]
    whole, part = augment.controls(7, numbers, shape), augment.controls(7, numbers[order], shape)
    assert tuple(whole) == augment.names
    for name, values in whole.items():
        assert values.dtype in (np.int32, np.float32) and values.shape == (200,)
        np.testing.assert_array_equal(part[name], values[order])


@pytest.mark.parametrize("augment, shape", MEMBERS)
def test_host_equals_device(augment, shape):
    """NumPy and a jitted jax program give the same pixels, of the stated shape."""
    images = numbered(40, shape).image
    controls = augment.controls(1, np.arange(40), shape)
    host = augment.apply(images, controls)
    assert isinstance(host, np.ndarray) and host.dtype == np.uint8 and host.shape[1:] == augment.shape(shape)
    np.testing.assert_array_equal(jax.jit(augment.apply)(images, controls), host)


@pytest.mark.parametrize("augment, shape", MEMBERS)
def test_heldout_images_have_the_shape_and_the_controls_of_training_images(augment, shape):
    """Asking twice changes nothing; only `canvas` draws anything for them, and none of them is mirrored otherwise."""
    still = for_heldout(augment)
    again, numbers = for_heldout(still), np.arange(300)
    assert still.names == augment.names and still.shape(shape) == augment.shape(shape) and again.spec == still.spec
    controls = still.controls(3, numbers, shape)
    if "contrast" not in still.names:
        assert all((values == values[0]).all() for values in controls.values()) and not np.any(controls.get("flip", 0))
    images = numbered(300, shape).image
    whole = still.apply(images, controls)
    np.testing.assert_array_equal(again.apply(images, again.controls(3, numbers, shape)), whole)
    assert whole.shape[1:] == still.shape(shape)


def test_heldout_images_are_left_alone_where_sizes_stay():
    images = numbered(5).image
    for augment in (flip(), crop(2, "reflect"), standard(pad=1), compose(flip(), crop(3))):
        still = for_heldout(augment)
        np.testing.assert_array_equal(still.apply(images, still.controls(0, np.arange(5), images.shape[1:])), images)


def test_recorded_controls_reproduce_the_batch():
    """Applied by hand, pixel by pixel, the recorded controls give the images that training sees."""
    source, augment = numbered(9, (5, 6, 1)), standard(rate=0.5, pad=2)
    batch = Batches(source, 32, seed=0, augment=augment).at(1)
    for seen, index, flipped, top, left in zip(
        augment.apply(batch["image"], batch["controls"]), batch["index"], *batch["controls"].values(), strict=True
    ):
        original = source.image[index]
        original = original[:, ::-1] if flipped else original
        for row, column in np.ndindex(5, 6):
            y, x = row + top - 2, column + left - 2
            inside = 0 <= y < 5 and 0 <= x < 6
            assert seen[row, column, 0] == (original[y, x, 0] if inside else 0)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_centred_crop_is_the_image(mode):
    images = numbered(3).image
    centre = {"top": np.full(3, 2, np.int32), "left": np.full(3, 2, np.int32)}
    np.testing.assert_array_equal(crop(2, mode).apply(images, centre), images)


def test_draws_have_the_stated_distribution():
    """Flips at their rate; every offset equally often, the two independent of each other."""
    controls = standard(rate=0.3, pad=2).controls(5, np.arange(20_000), SHAPE)
    assert abs(controls["flip"].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    table = np.histogram2d(controls["top"], controls["left"], bins=5, range=[[-0.5, 4.5]] * 2)[0]
    assert table.sum() == 20_000 and stats.chisquare(table.ravel()).pvalue > 1e-4
    again, other = (standard(rate=0.3, pad=2).controls(seed, np.arange(20_000), SHAPE) for seed in (5, 6))
    np.testing.assert_array_equal(again["top"], controls["top"])
    assert abs(np.mean(other["top"] == controls["top"]) - 0.2) < 0.02


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_flip_never_or_always(rate):
    assert (flip(rate).controls(0, np.arange(1000), SHAPE)["flip"] == rate).all()


def test_a_composition_draws_what_its_members_draw():
    numbers = np.arange(50)
    whole = compose(flip(0.5), crop(3)).controls(2, numbers, SHAPE)
    for name, values in (flip(0.5).controls(2, numbers, SHAPE) | crop(3).controls(2, numbers, SHAPE)).items():
        np.testing.assert_array_equal(whole[name], values)


def test_a_member_of_a_composition_sees_what_the_one_before_it_made():
    """Drawn for the shape that it will be applied to: reduced 12×20 images are 6×10, and their crops lie in them."""
    both, numbers = compose(low_resolution(6), random_crop(6)), np.arange(100)
    left = both.controls(0, numbers, (6, 20, 1))["crop_left"]  # nothing to reduce
    assert left.max() == 14
    with pytest.raises(ValueError, match=r"more than one augmentation of 'low_resolution.* changes the size"):
        both.controls(0, numbers, (12, 20, 1))


def test_specs_tell_options_apart():
    """They say whether a run that goes on sees the same images."""
    options = {
        "flip": [{"rate": 0.4}],
        "crop": [{"pad": 3}],
        "random_crop": [{"size": 7}, {"size": 7, "rate": 0.5}],
        "local_crop": [{"size": 6, name: value} for name, value in {"low": 0.3, "high": 0.9, "ratio": 2.0}.items()],
        "canvas": [{"size": 20}, {"smallest": 7}, {"largest": 11}, {"rate": 0.1}, {"factor": 4}, {"faintest": 0.7}],
    }
    made = [AUGMENTS[n](**o) for table in (CASES, options) for n, cases in table.items() for o in cases]
    made = [augment for augment in made if augment.spec != standard().spec] + [standard()]
    assert len({augment.spec for augment in made}) == len(made)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: flip(1.5), "rate=1.5"),
        (lambda: crop(0), "pad=0"),
        (lambda: crop(1, "wrap"), "choose from constant, reflect"),
        (lambda: compose(flip(), flip()), "share a control"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "counter, key, words",
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, words):
    """The known-answer vectors of Random123 for philox4x32-10."""
    counter, key, words = (np.array([int(w, 16) for w in text.split()], np.uint64) for text in (counter, key, words))
    np.testing.assert_array_equal(philox(np.stack([counter, counter], 1), key), np.stack([words, words], 1))


def test_uniform_is_uniform():
    """Kolmogorov-Smirnov on consecutive counters, and no correlation between words, uses or neighbouring seeds."""
    numbers = np.arange(20_000)
    draws = [*uniform(0, numbers, "flip"), *uniform(0, numbers, "crop"), *uniform(1, numbers, "flip")]
    assert min(stats.kstest(u, "uniform").pvalue for u in draws) > 1e-4
    correlation = np.corrcoef([*draws, np.roll(draws[0], 1)]) - np.eye(13)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    assert not np.array_equal(uniform(2**32, numbers, "flip"), draws[:4])  # all 64 bits of a seed count
