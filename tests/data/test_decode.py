"""Image files of every mode, format and orientation as squares of 8-bit pixels."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from maskdiff_jax.data.decode import square
from tests.data.pictures import noise, save

RED = (200, 30, 10)

PICTURES = {
    "RGB": (Image.new("RGB", (9, 6), RED), RED),
    "palette": (Image.new("RGB", (9, 6), RED).convert("P", palette=Image.Palette.ADAPTIVE), RED),
    "grey": (Image.new("L", (9, 6), 77), (77,) * 3),
    "bits": (Image.new("1", (9, 6), 1), (255,) * 3),
    "16 bits": (Image.fromarray(np.full((6, 9), 257 * 77, np.uint16)), (77,) * 3),
    "transparent": (Image.new("RGBA", (9, 6), (*RED, 0)), (255,) * 3),
    "half transparent": (Image.new("LA", (9, 6), (0, 51)), (204,) * 3),
    "opaque": (Image.new("RGBA", (9, 6), (*RED, 255)), RED),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_mode_becomes_rgb(kind, tmp_path):
    picture, colour = PICTURES[kind]
    save(tmp_path / "x.png", picture)
    image = square(tmp_path / "x.png", 4).image
    assert image.dtype == np.uint8 and image.shape == (4, 4, 3)
    np.testing.assert_array_equal(image, np.broadcast_to(np.array(colour, np.uint8), image.shape))
    assert square(tmp_path / "x.png", 4, channels=1)[0].shape == (4, 4, 1)


def test_transparent_colour_of_a_palette(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    save(tmp_path / "x.gif", picture, transparency=1)
    assert (square(tmp_path / "x.gif", 4)[0] == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_come_close(suffix, tmp_path):
    save(tmp_path / f"x.{suffix}", np.full((90, 70, 3), RED, np.uint8))
    assert np.abs(square(tmp_path / f"x.{suffix}", 8)[0].astype(int) - RED).max() <= 4


@pytest.mark.parametrize("levels", [np.zeros((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)])
def test_pixels_of_unknown_range_are_refused(levels, tmp_path):
    save(tmp_path / "x.tiff", levels)
    with pytest.raises(ValueError, match="range is unknown"):
        square(tmp_path / "x.tiff", 4)


TURNS = {1: 0, 3: 2, 6: 3, 8: 1}  # EXIF orientation: quarter turns to the left that make it upright


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "x.png", noise(1, 6, 6), exif=exif)
    np.testing.assert_array_equal(square(tmp_path / "x.png", 6)[0], np.rot90(noise(1, 6, 6), TURNS[orientation]))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_size_of_the_original_is_that_of_the_upright_image(orientation, suffix, tmp_path):
    """Also where a JPEG is decoded at a part of its size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / f"x.{suffix}", noise(1, 50, 90), exif=exif)
    with Image.open(tmp_path / f"x.{suffix}") as image:
        width, height = ImageOps.exif_transpose(image).size
    view = square(tmp_path / f"x.{suffix}", 8)
    assert (view.height, view.width) == (height, width) and {height, width} == {50, 90}


@pytest.mark.parametrize("height, width", [(8, 8), (8, 20), (20, 8), (16, 40), (4, 6)])
@pytest.mark.parametrize("place", [None, 0.0, 0.4, 0.999])
def test_window_is_cut_out_of_the_resized_image(height, width, place, tmp_path):
    save(tmp_path / "x.png", noise(2, height, width))
    image, top, left, *original = square(tmp_path / "x.png", 8, place=place)
    assert original == [height, width]
    scale = 8 / min(height, width)
    whole = Image.fromarray(noise(2, height, width))
    whole = np.asarray(whole.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC))
    assert top == int(top) and left == int(left)
    np.testing.assert_array_equal(image, whole[int(top) : int(top) + 8, int(left) : int(left) + 8])
    extent = np.array(whole.shape[:2]) - 8
    if place is None:
        np.testing.assert_array_equal([top, left], extent / 2)
    if place == 0.999:
        np.testing.assert_array_equal([top, left], extent)
