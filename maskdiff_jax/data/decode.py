"""An image file of any size and mode as a square of 8-bit pixels."""

from os import PathLike
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps


class Window(NamedTuple):
    """What `square` returns; ``height`` and ``width`` are those of the whole image as it is stored, but upright."""

    image: np.ndarray
    top: float
    left: float
    height: int
    width: int


def square(path: str | PathLike | IO[bytes], size: int, channels: int = 3, place: float | None = None) -> Window:
    """``image`` uint8 [size, size, channels]: a square window that spans the shorter side of the image at ``path``.

    ``path`` may be an open file.

    ``place`` in [0, 1) says where it lies along the longer side, None in the middle. ``top`` and ``left`` are its
    corner in the whole image once that is resized to a shorter side of ``size`` (bicubic, antialiased); they are whole
    numbers where ``place`` is given, so that the window can be cut out again.

    Turned upright as EXIF says; the first frame of an animation; transparent parts on white; 16-bit grey levels are
    divided by 257. A JPEG more than twice as large is decoded at 1/2, 1/4 or 1/8 of its size. ``channels`` is 3 (RGB)
    or 1 (luma). Raises what Pillow raises, of whatever type, and ValueError for pixels whose range is unknown.
    """
    with Image.open(path) as image:
        original = image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) > 4:  # on its side
            original = original[::-1]
        image.draft(None, (2 * size, 2 * size))
        ImageOps.exif_transpose(image, in_place=True)
        pixels = _eight_bits(image).convert("RGB" if channels == 3 else "L")
    width, height = pixels.size
    side = min(width, height)
    if place is None:
        left, top = ((length - side) * size / (2 * side) for length in (width, height))
        x, y = (width - side) / 2, (height - side) / 2
    else:
        left, top = (int(place * (length * size // side - size + 1)) for length in (width, height))
        x, y = left * side / size, top * side / size
    box = (x, y, min(x + side, width), min(y + side, height))  # where rounding would leave the image by a hair
    window = pixels.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return Window(np.asarray(window).reshape(size, size, channels), top, left, original[1], original[0])


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit pixels, whose range is unknown")
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white
    return image
