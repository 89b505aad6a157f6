"""Images side by side in one picture, enlarged until a person can read them."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskdiff_jax.data.pixels import to_uint8
from maskdiff_jax.train.files import write_atomically

MARGIN = 8  # pixels of the picture around the grid
GAP = 4  # between neighbours
CAPTION = 16  # the strip under an image that holds its label
TILE = 64  # small images are enlarged to at least about this side
_PAPER, _INK = (86, 102, 130), (255, 255, 255)  # slate: unlike the black, grey or white rim of an image


def image_grid(
    images: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    labels: Sequence[object] | np.ndarray | None = None,
) -> np.ndarray:
    """Float images [n, h, w, 1 or 3] in [-1, 1] -> one picture, uint8 [H, W, 3]; a NaN shows as mid-grey.

    Images run row by row, ``columns`` in a row (default: a square), each pixel enlarged to ``scale`` x ``scale``
    (default: until the longer side is about 64) without smoothing. Image (r, c) starts at
    ``MARGIN + r·(h·scale + GAP), MARGIN + c·(w·scale + GAP)``; with ``labels``, one for each image, every row is
    CAPTION taller and shows them below the images. Raises ValueError for anything else.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"a grid takes images [n, h, w, 1 or 3] with n ≥ 1, got shape {list(images.shape)}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"a grid takes one label for each image, got {len(images)} images and {len(labels)} labels")
    n, h, w, _ = images.shape
    across = min(n, math.ceil(math.sqrt(n)) if columns is None else columns)
    zoom = max(1, TILE // max(h, w)) if scale is None else scale
    if across < 1 or zoom < 1:
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")

    height, width = h * zoom, w * zoom
    strip = 0 if labels is None else CAPTION
    tops = [MARGIN + (i // across) * (height + strip + GAP) for i in range(n)]
    lefts = [MARGIN + (i % across) * (width + GAP) for i in range(n)]
    size = (max(tops) + height + strip + MARGIN, max(lefts) + width + MARGIN)
    picture = np.full((*size, 3), _PAPER, np.uint8)
    for tile, top, left in zip(to_uint8(np.nan_to_num(images)), tops, lefts, strict=True):
        picture[top : top + height, left : left + width] = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
    if labels is None:
        return picture

    canvas = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=CAPTION - 4)
    for label, top, left in zip(labels, tops, lefts, strict=True):
        centre = (left + width // 2, top + height + CAPTION // 2)
        draw.text(centre, str(label), fill=_INK, font=font, anchor="mm")
    return np.asarray(canvas)


def save_png(
    path: str | os.PathLike[str],
    images: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    labels: Sequence[object] | np.ndarray | None = None,
) -> None:
    """Write `image_grid` of ``images`` as `save_picture` does."""
    save_picture(path, image_grid(images, columns, scale, labels))


def save_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as a PNG, atomically; makes the folder where it is missing."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    write_atomically(path, buffer.getvalue())
