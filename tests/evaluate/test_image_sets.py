"""Folders and .npz files as sets of images, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.evaluate.image_sets import BATCH, is_statistics, read_images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (BATCH + 3, 4, 6, 3), np.uint8)


def all_of(found):
    return np.concatenate(list(found.batches()))


def folder(path, images, suffix=".png"):
    path.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(path / f"{i:05d}{suffix}")
    return path


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    found = read_images(folder(tmp_path / "set", IMAGES))
    assert (found.shape, found.count) == ((4, 6, 3), len(IMAGES))
    np.testing.assert_array_equal(all_of(found), IMAGES)
    assert [len(batch) for batch in found.batches()] == [BATCH, 3]
    (tmp_path / "set" / ".hidden").write_text("no image")
    assert read_images(tmp_path / "set").count == len(IMAGES)


def test_grey_images_have_one_channel_and_join_coloured_ones(tmp_path):
    grey = folder(tmp_path / "grey", IMAGES[:2, ..., :1])
    assert read_images(grey).shape == (4, 6, 1)
    Image.fromarray(IMAGES[0]).save(grey / "0.png")  # the first by name
    np.testing.assert_array_equal(all_of(read_images(grey))[1], IMAGES[0, ..., :1].repeat(3, axis=2))
    Image.fromarray(IMAGES[0]).save(folder(tmp_path / "mixed", IMAGES[:2, ..., :1]) / "9.png")
    with pytest.raises(ValueError, match=r"9.png has colours, and 00000.png has none"):
        all_of(read_images(tmp_path / "mixed"))


@pytest.mark.parametrize("name", ["images", "arr_0"])
def test_an_npz_of_bytes_or_of_floats(name, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **{name: IMAGES, "labels": np.arange(len(IMAGES))})
    found = read_images(path)
    np.testing.assert_array_equal(all_of(found), IMAGES)
    np.testing.assert_array_equal(found.labels, np.arange(len(IMAGES)))
    np.savez(path, **{name: IMAGES.astype(np.float32) / 127.5 - 1})
    np.testing.assert_array_equal(all_of(read_images(path)), IMAGES)


def test_statistics_are_told_from_images(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(3), arr_0=IMAGES)
    assert is_statistics(tmp_path / "a.npz") and not is_statistics(tmp_path / "b.npz") and not is_statistics(tmp_path)


def spoilt(value):
    images = np.zeros((3, 2, 2, 1), np.float32)
    images[1, 0, 0, 0] = value
    return {"images": images}


WRONG = {
    "no array": ({"pictures": IMAGES}, "no array images or arr_0, only pictures"),
    "NaN": (spoilt(np.nan), "1 of 3 images hold NaN or inf, first number 1"),
    "range": (spoilt(3.0), r"images reaches 3: floats must lie in \[-1, 1\]"),
    "integers": ({"images": IMAGES.astype(np.int32)}, "images is int32: uint8, or floats"),
    "no batch": ({"images": IMAGES[0]}, r"images \[4, 6, 3\] is not"),
    "pickle": ({"images": np.array([{}], dtype=object)}, "images is pickled or damaged"),
    "labels": ({"images": IMAGES, "labels": np.zeros(3)}, r"labels float64\[3\] are not integers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_an_npz_may_not_hold(case, tmp_path):
    arrays, message = WRONG[case]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read_images(tmp_path / "set.npz")
    assert "set.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_folder_may_not_hold(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder or \.npz file"):
        read_images(tmp_path / "absent")
    path = folder(tmp_path / "set", IMAGES[:2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        read_images(tmp_path / "empty")
    Image.fromarray(IMAGES[0, :3]).save(path / "9.png")
    with pytest.raises(ValueError, match=r"9.png: 3x6 pixels, and 00000.png has 4x6"):
        all_of(read_images(path))
    (path / "9.png").write_bytes((path / "00000.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"9.png: cannot be read as an image"):
        all_of(read_images(path))
    (path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no image file"):
        read_images(path)
