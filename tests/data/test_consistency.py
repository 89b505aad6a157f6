"""Consistency data: what the rule joins is equal to the last bit, and nothing else joins the halves."""

import numpy as np
import pytest
from scipy import stats

from maskdiff_jax.data import DATASETS, DataError, consistency

N = 1000


@pytest.fixture(scope="module", params=[16, 32])
def mirrored(request):
    return consistency("mirror", request.param, N, 1).train.image


@pytest.fixture(scope="module", params=[16, 32])
def coloured(request):
    return consistency("colours", request.param, N, 1).train.image


def halves(images):
    return np.split(images, 2, axis=2)


def lit(images):
    return images.max(axis=3) > 0


def extents(hit):
    """First and last hit of each row of [n, length]."""
    return hit.argmax(axis=1), hit.shape[1] - 1 - hit[:, ::-1].argmax(axis=1)


def test_mirrored_images_are_their_own_mirror_image(mirrored):
    np.testing.assert_array_equal(mirrored, mirrored[:, :, ::-1])
    assert lit(mirrored).any(axis=(1, 2)).all()


def test_mirrored_patterns_are_everywhere_and_many_coloured(mirrored):
    """Every pixel of the half is lit in some images and dark in others, and most images show all three blobs."""
    share = lit(halves(mirrored)[0]).mean(axis=0)
    assert 0.02 < share.min() < share.max() < 0.7
    shown = [len({tuple(pixel) for pixel in image.reshape(-1, 3) if pixel.any()}) for image in mirrored[:60]]
    assert min(shown) >= 1 and max(shown) == 3 and np.mean(np.equal(shown, 3)) > 0.8


def test_one_colour_in_both_halves_far_apart(coloured):
    size = coloured.shape[1]
    left, right = halves(coloured)
    colour = coloured.max(axis=(1, 2))
    assert (colour.max(axis=1) == 255).all()
    for half in (left, right):
        np.testing.assert_array_equal(half, np.where(lit(half)[..., None], colour[:, None, None, :], 0))
        for axis in (1, 2):
            first, last = extents(lit(half).any(axis=3 - axis))
            assert 3 * size // 16 <= (last - first + 1).min() and (last - first + 1).max() == 5 * size // 16
    _, end = extents(lit(left).any(axis=1))
    begin, _ = extents(lit(right).any(axis=1))
    assert (size // 2 + begin - end - 1).min() == size // 4


def test_places_shapes_and_colours_are_as_stated_and_independent(coloured):
    """Corners are uniform where a shape fits, widths uniform, the three shapes and brightest channels equally likely;
    and no number of the left shape says anything of those of the right one."""
    size = coloured.shape[1]
    found = []
    for half in halves(coloured):
        seen = lit(half)
        (top, bottom), (first, _) = extents(seen.any(axis=2)), extents(seen.any(axis=1))
        width = bottom - top + 1
        assert stats.chisquare(np.bincount(width)[3 * size // 16 :]).pvalue > 1e-4
        for w in np.unique(width):
            assert stats.chisquare(np.bincount(top[width == w], minlength=size - w + 1)).pvalue > 1e-4
        area = seen.sum(axis=(1, 2))
        areas, counts = np.unique(area[width == 5 * size // 16], return_counts=True)
        assert len(areas) == 3 and stats.chisquare(counts).pvalue > 1e-4  # a square, a disc, a square on its corner
        found.append((top, first, width, area))
    between = np.corrcoef(np.concatenate(found))[:4, 4:]
    assert np.abs(between).max() < 5 / np.sqrt(N)
    brightest = (coloured.max(axis=(1, 2)) == 255).sum(axis=0)
    assert (abs(brightest - N / 3) < 5 * np.sqrt(N * 2 / 9)).all()


@pytest.mark.parametrize("rule", ["mirror", "colours"])
def test_an_image_is_a_function_of_rule_size_seed_and_number(rule):
    """More images leave those there, and held-out ones, as they are; no two images are equal; every option counts."""
    few, many = consistency(rule, images=100, heldout=50), consistency(rule, images=5000, heldout=60)
    np.testing.assert_array_equal(few.train.image, many.train.image[:100])
    np.testing.assert_array_equal(few.heldout.image, many.heldout.image[:50])
    assert len({image.tobytes() for image in np.concatenate([many.train.image, many.heldout.image])}) == 5060
    other = "colours" if rule == "mirror" else "mirror"
    others = ({}, {"rule": other}, {"seed": 1}, {"seed": 2**32}, {"images": 101}, {"heldout": 51}, {"size": 32})
    base = {"rule": rule, "images": 100, "heldout": 50}
    assert len({consistency(**base | option).fingerprint for option in others}) == len(others)


def test_the_data_set():
    data = consistency("mirror", 32, images=7, heldout=3)
    assert (data.name, data.shape, data.classes) == ("consistency_mirror", (32, 32, 3), 0)
    assert (len(data.train), len(data.heldout)) == (7, 3)
    assert set(data.train.fetch(np.array([2]))) == {"image"}
    assert DATASETS["consistency"] is consistency


@pytest.mark.parametrize(
    "options", [{"rule": "colour"}, {"size": 8}, {"size": 24}, {"images": 0}, {"heldout": 0}, {"seed": -1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(DataError, match=next(iter(options))):
        consistency(**options)
