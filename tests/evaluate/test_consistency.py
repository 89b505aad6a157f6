"""The reader of rules: exact on real images, on halves that do not belong together, and under noise of known size."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import norm

from maskdiff_jax.data import consistency, to_float, to_uint8
from maskdiff_jax.evaluate.consistency import LEVEL, RULES, Verdict, tolerance, violation_rates, violations

BOTH = pytest.mark.parametrize("rule", sorted(RULES))
BLACK, WHITE = -1.0, 1.0


@cache
def real(rule, count=1000, size=16):
    images = to_float(consistency(rule, size, images=count, heldout=1).train.image)
    images.flags.writeable = False
    return images


def noisy(images, sd, seed=0):
    return images + np.float32(sd) * np.random.default_rng(seed).standard_normal(images.shape, np.float32)


def rates(rule, images, noise=0.05):
    return violation_rates(violations(rule, noise)(images))


def squares(left, right, size=16):
    """One image: squares [(row, column, side, colour)] of each half on black."""
    image = np.full((1, size, size, 3), BLACK, np.float32)
    for row, column, side, colour in (*left, *right):
        image[0, row : row + side, column : column + side] = colour
    return image


@BOTH
def test_no_real_image_violates_its_rule(rule):
    assert rates(rule, real(rule, 10_000), noise=0) == {"violation_rate": 0, "unreadable_rate": 0}
    assert rates(rule, real(rule, 500, 32), noise=0) == {"violation_rate": 0, "unreadable_rate": 0}


@BOTH
def test_every_image_with_a_half_of_another_violates_it(rule):
    """Under "colours" of one of another colour: with one of any, all but those that happen to have nearly the same."""
    images = real(rule)
    other = np.roll(images, 1, axis=0)
    if rule == "colours":
        apart = np.abs(images.max(axis=(1, 2)) - other.max(axis=(1, 2))).max(axis=1) > 0.3
        assert apart.mean() > 0.97
        images, other = images[apart], other[apart]
    exchanged = np.concatenate([images[:, :, :8], other[:, :, 8:]], axis=2)
    assert rates(rule, exchanged) == {"violation_rate": 1, "unreadable_rate": 0}


@BOTH
@pytest.mark.parametrize("sd", [0.02, 0.05, 0.15])
def test_noise_of_the_stated_size_is_forgiven(rule, sd):
    """As it is, as samples are (clipped), and as they are stored (in 8 bits)."""
    images = noisy(real(rule), sd)
    for seen in (images, np.clip(images, -1, 1), to_float(to_uint8(images))):
        assert rates(rule, seen, noise=sd) == {"violation_rate": 0, "unreadable_rate": 0}


def test_louder_noise_is_found_as_often_as_it_must_be():
    """Under "mirror", the chance that one of 384 differences N(0, 2 sd²) is beyond the tolerance."""
    images, limit = real("mirror"), tolerance(0.05, 8 * 16 * 3)
    for sd, seed in ((0.07, 1), (0.08, 2), (0.1, 3)):
        expected = 1 - (1 - 2 * norm.sf(limit / (sd * 2**0.5))) ** 384
        found = rates("mirror", noisy(images, sd, seed))["violation_rate"]
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(images))
    assert 0.4 < expected < 0.8


@pytest.mark.parametrize("comparisons", [3, 384])
def test_false_alarms_are_as_rare_as_stated(comparisons):
    """At the tolerance a union bound is all but exact: one image in a million."""
    alarm = comparisons * 2 * norm.sf((tolerance(0.05, comparisons) - LEVEL) / (0.05 * 2**0.5))
    assert alarm == pytest.approx(1e-6)
    assert tolerance(0, comparisons) == LEVEL


@pytest.mark.parametrize("size", [16, 32])
def test_one_element_breaks_the_mirror(size):
    """Where it is beyond the tolerance, on either side and up or down; not where it is within."""
    images, limit = real("mirror", 100, size), tolerance(0.05, size * size // 2 * 3)
    for column in (1, size - 1):
        for by in (limit + 1e-3, limit - 1e-3):
            changed = images.copy()
            changed[:, 3, column, 1] += np.where(changed[:, 3, column, 1] > 0, -by, by)
            assert rates("mirror", changed)["violation_rate"] == (by > limit)


def test_colours_differ_from_the_tolerance_on():
    """That of two medians, of 9 and 16 pixels: 1e-3 more in one channel violates, 1e-3 less does not."""
    limit = tolerance(0.05, 3, np.sqrt(np.pi / 2 * (1 / 9 + 1 / 16)))
    assert 0.1 < limit < 0.3
    for by in (limit + 1e-3, limit - 1e-3):
        for channel in range(3):
            image = squares([(2, 1, 3, (1, 0.5, 0))], [(9, 11, 4, np.array((1, 0.5, 0)) - by * np.eye(3)[channel])])
            verdict = violations("colours")(image)
            assert (bool(verdict.violates[0]), bool(verdict.unreadable[0])) == (by > limit, False)


@pytest.mark.parametrize("side", [-1, 1])
def test_of_two_middle_values_the_colour_is_the_mean(side):
    """Half of a shape at 0.3 in green, half at 0.5: as far from another colour as 0.4 is."""
    limit = tolerance(0.05, 3, np.sqrt(np.pi / 2 * (1 / 16 + 1 / 16)))
    for by in (limit + 1e-3, limit - 1e-3):
        image = squares([(2, 1, 4, (1, 0.3, -1))], [(9, 11, 4, (1, 0.4 + side * by, -1))])
        image[0, 2:4, 1:5, 1] = 0.5
        assert rates("colours", image) == {"violation_rate": by > limit, "unreadable_rate": 0}


RED, BLUE, SHAPE = (1, -1, -1), (-1, -1, 1), (9, 11, 4, (1, -1, -1))
UNREADABLE = {
    "nothing on the left": ([], [SHAPE]),
    "three pixels": ([(2, 2, 1, RED), (2, 3, 1, RED), (3, 2, 1, RED)], [SHAPE]),
    "two shapes": ([(1, 1, 3, RED), (10, 1, 3, RED)], [SHAPE]),
    "too large": ([(1, 0, 7, RED)], [SHAPE]),
    "two colours": ([(1, 1, 4, RED), (1, 3, 2, BLUE), (3, 3, 2, BLUE)], [SHAPE]),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("flipped", [False, True])
def test_what_is_not_one_shape_in_each_half_is_unreadable(name, flipped):
    image = squares(*UNREADABLE[name])
    verdict = violations("colours")(image[:, :, ::-1] if flipped else image)
    assert verdict.unreadable.all() and not verdict.violates.any()


def test_soft_rims_and_a_stain_leave_a_shape_readable():
    """A third of the rim half way to black, one pixel of another colour: still red."""
    image = squares([(2, 1, 4, RED)], [SHAPE])
    image[0, 1, 1:5], image[0, 3, 2] = (0.1, -1, -1), BLUE
    assert rates("colours", image) == {"violation_rate": 0, "unreadable_rate": 0}


def test_an_empty_pattern_is_unreadable_and_half_of_one_is_not_its_mirror():
    image = squares([(2, 1, 4, RED)], [])
    images = np.concatenate([np.full_like(image, BLACK), image, image[:, :, ::-1], np.full_like(image, WHITE)])
    verdict = violations("mirror")(images)
    np.testing.assert_array_equal(verdict.unreadable, [True, False, False, False])
    np.testing.assert_array_equal(verdict.violates, [False, True, True, False])


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_unreadable_and_leaves_the_others_alone(rule, value):
    images = real(rule)[:5].copy()
    images[3, 0, 0, 0] = value
    verdict = violations(rule)(images)
    np.testing.assert_array_equal(verdict.unreadable, np.arange(5) == 3)
    assert not verdict.violates.any()


@BOTH
def test_an_image_is_judged_alone_and_mirroring_does_not_change_it(rule):
    images = noisy(real(rule), 0.1)
    verdict = violations(rule)(images)
    assert verdict.violates.any() and not verdict.violates.all()
    for pick in (np.s_[7:8], np.s_[::-1]):
        for ours, theirs in zip(violations(rule)(images[pick]), verdict, strict=True):
            np.testing.assert_array_equal(ours, theirs[pick])
    for ours, theirs in zip(violations(rule)(images[:, :, ::-1]), verdict, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rates_are_of_the_readable():
    verdict = Verdict(np.array([True, False, False, False, False]), np.array([False, False, True, False, False]))
    assert violation_rates(verdict) == {"violation_rate": 0.25, "unreadable_rate": 0.2}
    nothing = Verdict(np.zeros(2, bool), np.ones(2, bool))
    assert violation_rates(nothing) == {"violation_rate": None, "unreadable_rate": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mirrored"}, "rule='mirrored': choose from mirror, colours"),
        ({"rule": "mirror", "noise": -0.1}, "noise=-0.1"),
        ({"rule": "mirror", "noise": 0.2}, "noise=0.2"),
        ({"rule": "mirror", "noise": float("nan")}, "noise=nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        violations(**options)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 5, 3)), np.zeros((4, 4, 3)), np.zeros((0, 4, 4, 3))]
)
def test_bad_images_are_refused(images):
    with pytest.raises(ValueError, match="float image "):
        violations("mirror")(images)
