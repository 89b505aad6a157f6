"""Folders of small images for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def two_classes(root: Path, count: int = 40, height: int = 6, width: int = 9) -> Path:
    """``count`` different PNGs of one size, half of them in ``root/ant`` and half in ``root/bee/deep``."""
    for i in range(count):
        save(root / ("ant", "bee/deep")[i % 2] / f"{i}.png", noise(i, height, width))
    return root


def mixed(root: Path, count: int = 200) -> Path:
    """Images of all sizes, modes and formats in the classes a, b, c; three of them broken: see `BROKEN`."""
    modes = ["RGB", "L", "P", "RGBA", "LA", "1", "I;16", "CMYK", "RGB", "RGB"]
    formats = ["png", "png", "png", "png", "png", "png", "png", "jpg", "JPEG", "webp"]
    random = np.random.default_rng(0)
    for i in range(count - len(BROKEN)):
        height, width = random.integers(5, 60, 2)
        mode, suffix = modes[i % 10], formats[i % 10]
        deep = random.integers(0, 65536, (height, width)).astype(np.uint16)
        picture = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(noise(i, height, width)).convert(mode)
        save(root / "abc"[i % 3] / f"{i:03}.{suffix}", picture)
    save(root / BROKEN[0], noise(0, 40, 40))
    (root / BROKEN[0]).write_bytes((root / BROKEN[0]).read_bytes()[:-300])
    (root / BROKEN[1]).touch()
    (root / BROKEN[2]).write_text("no image\n")
    (root / "a" / ".hidden.png").write_text("no image either\n")
    (root / "a" / "notes.txt").write_text("nor this\n")
    return root


BROKEN = ("a/truncated.jpg", "b/empty.webp", "c/text.png")
