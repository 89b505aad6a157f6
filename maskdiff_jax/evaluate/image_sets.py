"""Sets of images on disk: a folder of image files, or an .npz. They are read in batches, so that they may be large."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from PIL import Image

ARRAYS = ("images", "arr_0")  # what an array of images is called: by ``--mode=sample``, and by ADM
BATCH = 256
_RANGE = 1 + 1e-3  # of floating-point images, which samplers clip to [-1, 1]


class ImageSet(NamedTuple):
    """``batches()`` yields uint8 [b, h, w, c] of all ``count`` images of ``shape`` (h, w, c), in a fixed order.

    ``labels`` int32 [count] are the classes, where an .npz says them.
    """

    path: Path
    shape: tuple[int, int, int]
    count: int
    batches: Callable[[], Iterator[np.ndarray]]
    labels: np.ndarray | None = None


def read_images(path: str | Path) -> ImageSet:
    """The images of a folder, or of ``images`` or ``arr_0`` [n, h, w, c] of an .npz (uint8, or floats in [-1, 1]).

    A folder holds image files, or such .npz files, whose images follow each other in the order of the names.

    Raises ValueError, in one line that names the file, where there are none, and for files that are no images, images
    of several sizes, arrays of another kind, values that are not finite, and pickles. What only shows when a file is
    read is raised by ``batches``.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _npz(path)
    raise ValueError(f"{path}: no such folder or .npz file")


def whole(images: ImageSet) -> tuple[np.ndarray, np.ndarray | None]:
    """All images of a set, uint8 [n, h, w, c], and their labels: for features that learn from them."""
    return np.concatenate(list(images.batches())), images.labels


def in_memory(path: str, images: np.ndarray, labels: np.ndarray | None = None) -> ImageSet:
    """A set of images uint8 [n, h, w, c]; ``path`` is what errors call it."""
    cuts = range(0, len(images), BATCH)
    batches = lambda: (images[cut : cut + BATCH] for cut in cuts)  # noqa: E731
    labels = None if labels is None else labels.astype(np.int32)
    return ImageSet(Path(path), images.shape[1:], len(images), batches, labels)


def is_statistics(path: str | Path) -> bool:
    """Whether a path is an .npz with ``mu`` and ``sigma`` and no images."""
    if not Path(path).is_file():
        return False
    names = _open(Path(path)).files
    return {"mu", "sigma"} <= set(names) and not set(ARRAYS) & set(names)


def _folder(path: Path) -> ImageSet:
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
    if not files:
        raise ValueError(f"{path}: no images")
    known = Image.registered_extensions()
    if all(file.suffix == ".npz" for file in files):
        return _joined(path, [_npz(file) for file in files])
    if strange := [file for file in files if file.suffix.lower() not in known]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ValueError(f"{path}: {strange[0].relative_to(path)}{more} is no image file: move it elsewhere")
    shape = _read(files[0]).shape

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(files), BATCH):
            yield np.stack([_fitting(file, files[0], shape) for file in files[start : start + BATCH]])

    return ImageSet(path, shape, len(files), batches)


def _joined(path: Path, parts: list[ImageSet]) -> ImageSet:
    """The sets of several files as one; labels only where all have them."""
    for part in parts:
        if part.shape != parts[0].shape:
            raise ValueError(
                f"{part.path}: images {_size(part.shape)}, and {parts[0].path.name} has {_size(parts[0].shape)}"
            )
    labels = [part.labels for part in parts if part.labels is not None]
    return ImageSet(
        path,
        parts[0].shape,
        sum(part.count for part in parts),
        lambda: chain.from_iterable(part.batches() for part in parts),
        np.concatenate(labels) if len(labels) == len(parts) else None,
    )


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _fitting(file: Path, first: Path, shape: tuple[int, ...]) -> np.ndarray:
    image = _read(file)
    if image.shape[:2] != shape[:2]:
        sizes = f"{_size(image.shape)} pixels, and {first.name} has {_size(shape)}"
        raise ValueError(f"{file}: {sizes}: images must be of one size")
    if image.shape[2] < shape[2]:
        return np.repeat(image, shape[2], axis=2)  # a grey image among coloured ones
    if image.shape[2] > shape[2]:
        raise ValueError(f"{file} has colours, and {first.name} has none: images must be of one kind")
    return image


def _read(file: Path) -> np.ndarray:
    """uint8 [h, w, 1] of a grey image, else [h, w, 3]."""
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except Exception as error:  # whatever broken files provoke
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: cannot be read as an image: {reason}") from error
    return pixels[..., None] if grey else pixels


def _npz(path: Path) -> ImageSet:
    with _open(path) as arrays:
        name = next((name for name in ARRAYS if name in arrays.files), None)
        if name is None:
            raise ValueError(f"{path}: no array {' or '.join(ARRAYS)}, only {', '.join(arrays.files) or 'nothing'}")
        images = _array(path, arrays, name)
        labels = _array(path, arrays, "labels") if "labels" in arrays.files else None
    if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
        raise ValueError(f"{path}: {name} {list(images.shape)} is not [n, h, w, 1] or [n, h, w, 3]")
    if labels is not None and (labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"{path}: labels {labels.dtype}{list(labels.shape)} are not integers [{len(images)}]")
    images = images if images.dtype == np.uint8 else _from_float(path, name, images)
    return in_memory(str(path), images, labels)


def _from_float(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{path}: {name} is {images.dtype}: uint8, or floats in [-1, 1]")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        number = int(np.flatnonzero(~finite)[0])
        count = f"{int((~finite).sum())} of {len(images)} images"
        raise ValueError(f"{path}: {count} hold NaN or inf, first number {number}")
    if np.abs(images).max() > _RANGE:
        raise ValueError(f"{path}: {name} reaches {np.abs(images).max():.3g}: floats must lie in [-1, 1]")
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def _open(path: Path) -> np.lib.npyio.NpzFile:
    try:
        arrays = np.load(path, allow_pickle=False)
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not an .npz of plain arrays") from error
    if isinstance(arrays, np.ndarray):
        raise ValueError(f"{path}: a single array; name it in an .npz: images=…")
    return arrays


def _array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return arrays[name]
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: {name} is pickled or damaged: only plain arrays are read") from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
