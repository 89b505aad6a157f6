import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.pixels import to_uint8
from maskdiff_jax.evaluate.grid import image_grid, save_png


def images(n, h=3, w=2, c=1):
    return np.random.default_rng(0).uniform(-1, 1, (n, h, w, c)).astype(np.float32)


def test_a_nan_shows_as_mid_grey():
    assert image_grid(np.full((1, 1, 1, 1), np.nan, np.float32), scale=1)[8, 8, 0] == 128


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_in_its_place(channels):
    x = images(5, c=channels)
    picture = image_grid(x, columns=3, scale=4)
    assert picture.dtype == np.uint8
    assert picture.shape == (8 + 12 + 4 + 12 + 8, 8 + 3 * 8 + 2 * 4 + 8, 3)
    seen = np.zeros(picture.shape[:2], bool)
    for i, (top, left) in enumerate([(8, 8), (8, 20), (8, 32), (24, 8), (24, 20)]):
        for row in range(12):
            for column in range(8):
                pixel = np.broadcast_to(to_uint8(x[i, row // 4, column // 4]), 3)
                np.testing.assert_array_equal(picture[top + row, left + column], pixel)
        seen[top : top + 12, left : left + 8] = True
    assert len(np.unique(picture[~seen], axis=0)) == 1  # one colour between and around the images


@pytest.mark.parametrize(
    ("n", "side", "shape"),
    [(9, 8, (216, 216, 3)), (10, 8, (216, 284, 3)), (4, 32, (148, 148, 3)), (1, 256, (272, 272, 3))],
)
def test_defaults(n, side, shape):
    """A square of tiles of about 64 pixels."""
    assert image_grid(images(n, side, side)).shape == shape


def test_labels_leave_the_images_alone():
    x = images(4, 8, 8)
    plain, labelled = image_grid(x, columns=2), image_grid(x, columns=2, labels=[7, "cat", 0, 1])
    assert labelled.shape == (plain.shape[0] + 2 * 16, plain.shape[1], 3)
    for row, (top, moved) in enumerate([(8, 8), (76, 92)]):
        np.testing.assert_array_equal(plain[top : top + 64], labelled[moved : moved + 64])
        strip = labelled[moved + 64 : moved + 80]
        for left in (8, 76):
            assert np.ptp(strip[:, left : left + 64]) > 100, f"nothing is written in row {row}"


def test_saved_picture_reads_back(tmp_path):
    x = images(6, c=3)
    path = tmp_path / "new" / "grid.png"
    save_png(path, images(2))
    save_png(path, x, columns=2, scale=3, labels=range(6))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image_grid(x, 2, 3, range(6)))
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_bad_input():
    for x in (np.zeros((2, 8, 8, 2)), np.zeros((8, 8, 1)), np.zeros((0, 8, 8, 1))):
        with pytest.raises(ValueError, match="1 or 3"):
            image_grid(x)
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        image_grid(images(2), labels=[1, 2, 3])
    with pytest.raises(ValueError, match="at least 1, got None and 0"):
        image_grid(images(2), scale=0)
