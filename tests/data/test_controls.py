"""Recorded controls as conditions: the same numbers in training, for held-out images and for sampling."""

import jax
import numpy as np
import pytest

from maskdiff_jax.data import (
    AUGMENTS,
    Batches,
    canvas,
    control_names,
    controls_of,
    feed,
    flip,
    folder,
    for_heldout,
    held_out,
    local_crop,
    none,
    random_crop,
    recorded,
    to_float,
)
from maskdiff_jax.data.controls import CONTROL_UNITS, DERIVED
from tests.data import pictures
from tests.data.conftest import numbered

SIZES = ("original_height", "target_height", "original_width", "target_width")
CROPS = ("crop_left", "flip", "crop_height", "aspect")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of images of two sizes, which its source resizes."""
    root = pictures.two_classes(tmp_path_factory.mktemp("photographs"), 20, height=12, width=20)
    for i in range(10):
        pictures.save(root / "ant" / f"tall {i}.png", pictures.noise(100 + i, 30, 15))
    return folder(root, 8)


@pytest.mark.parametrize("resident", [True, False])
def test_a_batch_carries_what_sampling_can_draw(resident):
    """float32 [b, m] in the order of the names; the same by running number, without an image."""
    source, augment = numbered(10, (8, 12, 1)), local_crop(4, rate=0.5)
    batches, ingest, table = feed(
        source, 8, 5, augment, resident=resident, prefetch=0, controls_high=CROPS, controls_low=SIZES
    )
    host, step = Batches(source, 8, 5, augment), jax.jit(ingest)
    for s in range(2):
        cond = step(next(batches), table).cond
        numbers = host.at(s)["number"]
        for found, names in ((cond.controls_high, CROPS), (cond.controls_low, SIZES)):
            expected = controls_of(augment, 5, numbers, names, (8, 12, 1))
            assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape == (8, 4)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    batches.close()


def test_nothing_is_carried_that_is_not_asked_for():
    source = numbered(6)
    batches, ingest, table = feed(source, 4, 0, flip(), prefetch=0, controls_high=("flip",))
    cond = ingest(next(batches), table).cond
    assert cond.controls_low is None and cond.controls_high.shape == (4, 1)
    assert controls_of(flip(), 0, np.arange(3), (), (4, 5, 3)) is None
    batches.close()


def test_units():
    """Fractions of the side that a length lies along; sizes by octaves; each in closed form."""
    shape, numbers = (256, 512, 3), np.arange(100)
    augment = local_crop(128, low=0.3, ratio=1.3, rate=0.5)
    raw = recorded(augment, augment.controls(0, numbers, shape), np.full((100, 2), (1024, 2048), np.int32), shape)
    names = control_names(augment)
    values = controls_of(augment, 0, numbers, names, shape, np.full((100, 2), (1024, 2048), np.int32))
    found = dict(zip(names, values.T, strict=True))
    divisor = {"crop_top": 256, "crop_height": 256, "crop_left": 512, "crop_width": 512, "flip": 1}
    for name, side in divisor.items():
        np.testing.assert_allclose(found[name], raw[name] / side, rtol=1e-6)
    constant = {"original_height": 1.0, "original_width": 1.1, "target_height": 0.7, "target_width": 0.7}
    for name, value in {**constant, "aspect": 2 / 3}.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert (raw["target_width"] == 128).all() and (raw["aspect"] == 2).all()
    drawn = canvas().controls(0, numbers, (8, 8, 1))
    names = ("offset_top", "offset_left", "scale", "contrast", "original_height")
    found = controls_of(canvas(), 0, numbers, names, (8, 8, 1)).T
    for values, name in zip(found[:3], names[:3], strict=True):
        np.testing.assert_allclose(values, drawn[name] / 16, rtol=1e-6)
    np.testing.assert_array_equal(found[3], drawn["contrast"])
    np.testing.assert_allclose(found[4], np.where(drawn["original_height"] == 4, 0.2, 0.3), rtol=1e-6)


OPTIONS = {"resize_centre": {"size": 4}, "random_crop": {"size": 4}, "local_crop": {"size": 4}}
OPTIONS["low_resolution"] = {"size": 4}


@pytest.mark.parametrize("name", AUGMENTS)
def test_every_recorded_control_is_a_number_of_about_one(name):
    """Of all augmentations, on training and on held-out images; and a unit is named for each that is not a factor."""
    augment = AUGMENTS[name](**OPTIONS.get(name, {}))
    names = control_names(augment)
    assert set(names) == {*DERIVED, *augment.names} and set(names) <= {*CONTROL_UNITS, "flip", "contrast"}
    for policy in (augment, for_heldout(augment)):
        numbers = controls_of(policy, 1, np.arange(500), names, (8, 8, 1))
        assert numbers.shape == (500, len(names)) and numbers.min() >= 0 and numbers.max() <= 1


def test_an_unknown_control_names_the_choices():
    with pytest.raises(ValueError, match=r"control 'crop_top' is not recorded: choose from .*aspect, flip$"):
        controls_of(flip(), 0, np.arange(3), ("flip", "crop_top"), (4, 5, 3))


def test_what_held_out_images_lack_is_no_condition():
    """An augmentation from elsewhere that leaves held-out images alone cannot condition on what it draws."""
    augment = flip()._replace(still=None)
    assert control_names(augment) == DERIVED and control_names(flip()) == (*DERIVED, "flip")


@pytest.mark.parametrize("resident", [True, False])
def test_originals_are_those_before_the_source_resized_them(photographs, resident):
    """The true sizes go with the images, streamed and resident, and tell the two kinds of files apart."""
    source = photographs.train
    batches, ingest, table = feed(
        source, 16, 0, random_crop(8), resident=resident, prefetch=0, controls_low=("original_height", "aspect")
    )
    raw = next(batches)
    height, aspect = np.asarray(jax.jit(ingest)(raw, table).cond.controls_low).T
    tall = np.array(["tall" in source.paths[index] for index in np.asarray(raw["index"])])
    assert 0 < tall.sum() < 16
    np.testing.assert_allclose(height, np.log2(np.where(tall, 30, 12)) / 10, rtol=1e-6)
    np.testing.assert_allclose(aspect, np.where(tall, 15 / 45, 20 / 32), rtol=1e-6)
    batches.close()


def test_held_out_images_and_their_conditions(photographs):
    """Each once, in order, in the shape of training, with the condition that sampling draws for its index."""
    augment, source = random_crop(6, rate=0.5), numbered(9, (6, 10, 3))
    whole = held_out(source, augment, high=("crop_left", "flip"), low=SIZES)
    np.testing.assert_array_equal(whole.image, to_float(source.image[:, :, 2:8]))
    np.testing.assert_array_equal(whole.cond.label, np.arange(9))
    np.testing.assert_allclose(whole.cond.controls_high, np.tile(np.float32([0.2, 0]), (9, 1)))
    part = held_out(source, augment, indices=np.array([7, 2]), low=SIZES)
    np.testing.assert_array_equal(part.image, whole.image[[7, 2]])
    np.testing.assert_array_equal(part.cond.controls_low, whole.cond.controls_low[[7, 2]])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(whole))
    assert held_out(numbered(3, labels=False), none()).cond.label is None
    low = held_out(photographs.heldout, none(), low=("original_width",)).cond.controls_low
    sizes = photographs.heldout.fetch(np.arange(len(photographs.heldout)))["original"]
    np.testing.assert_allclose(low[:, 0], np.log2(sizes[:, 1]) / 10, rtol=1e-6)


def test_a_reference_of_training_images_has_the_distribution_of_training():
    """On a canvas, each digit as the first epoch shows it."""
    source, augment = numbered(12, (8, 8, 1)), canvas()
    names = ("offset_left", "contrast")
    reference = held_out(source, augment, 4, high=names)
    batch = Batches(source, 12, 4, augment).at(0)
    np.testing.assert_array_equal(
        reference.image[batch["index"]], to_float(augment.apply(batch["image"], batch["controls"]))
    )
    np.testing.assert_array_equal(
        reference.cond.controls_high, controls_of(augment, 4, np.arange(12), names, (8, 8, 1))
    )
