"""A folder of one's own images, of any sizes and formats."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskdiff_jax.data.decode import Window, square
from maskdiff_jax.data.scan import File, image_files, pool, unreadable
from maskdiff_jax.data.source import DataError, Dataset, digest
from maskdiff_jax.data.split import by_hash, check_heldout, held_out

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")


def folder(
    path: str | os.PathLike | None,
    size: int,
    heldout: float = 0.1,
    labels: str = "folders",
    crop: str = "centre",
    windows: int = 4,
    channels: int = 3,
    max_corrupt: float = 0.05,
    extensions: Sequence[str] = EXTENSIONS,
) -> Dataset:
    """The images below ``path``, as uint8 [size, size, channels] (`decode.square` says how); none is ever written to.

    ``labels`` "folders": the class of an image is the sub-folder of ``path`` that it is in, at whatever depth, and
    images directly in ``path`` are unlabelled; "none" ignores sub-folders. Hidden files and other ``extensions`` do not
    count. ``heldout`` is a fraction, or a number of images from 1 on. Which side a file is on follows from a hash of
    its path below ``path``, so that more files do not reshuffle the others; but something is held out, and every class
    keeps an image to train on.

    ``crop`` "centre" takes the central square. "random" puts ``windows`` squares of every training image into the data,
    one in each ``windows``-th part of the longer side, at a place drawn from the path's hash; records then have ``top``
    and ``left``, int32, the window's corner in the image resized to a shorter side of ``size``. They are the same in
    every epoch (augmentations are what differs), so a sample's index says which pixels it is.

    Records have ``original``, int32 [b, 2]: the height and width of the whole image, upright.

    Every file is decoded once when the folder is opened (a large one is remembered, see `scan.unreadable`). Those that
    cannot be are left out and named on stderr. Raises DataError where they are more than the fraction ``max_corrupt``,
    and for a folder, class or split without images.
    """
    _check(path, size, heldout, labels, crop, windows, channels, max_corrupt)
    root = Path(path or "").expanduser()
    if not root.is_dir():
        raise DataError(f"path={str(path)!r}: no such folder")
    try:
        found = sorted(image_files(str(root), tuple(extensions)))
    except OSError as error:
        raise DataError(f"path={str(path)!r}: {error}") from error
    if not found:
        raise DataError(f"path={str(path)!r}: no file in it ends in {', '.join(extensions)}")
    if labels == "folders":
        _class_names(root, found)  # before the scan, which may take minutes
    broken = set(unreadable(root, found))
    if broken:
        names = ", ".join(sorted(broken)[:10]) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        line = f"{len(broken)} of {len(found)} images in {str(path)!r} cannot be read"
        if len(broken) > max_corrupt * len(found):
            raise DataError(f"{line}, more than max_corrupt={max_corrupt} allows: {names}")
        print(f"warning: {line} and are left out: {names}", file=sys.stderr, flush=True)
    files = [file for file in found if file.path not in broken]
    names = _class_names(root, files) if labels == "folders" else ()
    number = {name: i for i, name in enumerate(names)}
    label = np.array([number.get(_top(file.path), 0) for file in files], np.int32)
    held = held_out([file.path for file in files], label, heldout)

    def source(mask: np.ndarray, windows: int) -> FolderSource:
        part = [files[i] for i in np.flatnonzero(mask)]
        sizes = [(file.path, file.bytes) for file in part]
        return FolderSource(
            root=str(root.absolute()),
            paths=tuple(file.path for file in part),
            label=label[mask] if names else None,
            size=size,
            channels=channels,
            windows=windows,
            fingerprint=digest(sizes, size, channels, windows, names),
        )

    train = source(~held, windows if crop == "random" else 0)
    extras = (("original", (2,)), *((("top", ()), ("left", ())) if train.windows else ()))
    return Dataset("folder", (size, size, channels), len(names), train, source(held, 0), names, extras=extras)


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded when they are asked for; ``windows`` of each, one after the other (0: the central square).

    The fingerprint covers names and sizes of the files, not where they are or when they were written.
    """

    root: str
    paths: tuple[str, ...]
    label: np.ndarray | None
    size: int
    channels: int
    windows: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.paths) * max(1, self.windows)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        views = list(pool().map(self._view, indices.tolist()))
        original = np.array([(view.height, view.width) for view in views], np.int32)
        records = {"image": np.stack([view.image for view in views]), "original": original}
        if self.label is not None:
            records["label"] = self.label[indices // max(1, self.windows)]
        if self.windows:
            records |= {name: np.array([getattr(view, name) for view in views], np.int32) for name in ("top", "left")}
        return records

    def _view(self, index: int) -> Window:
        number, window = divmod(index, max(1, self.windows))
        path = self.paths[number]
        place = (window + by_hash("window", path)) / self.windows if self.windows else None
        try:
            return square(os.path.join(self.root, path), self.size, self.channels, place)
        except Exception as error:
            raise DataError(f"{path} in {self.root!r} could be read at the start, but no longer: {error}") from error


def _check(path, size, heldout, labels, crop, windows, channels, max_corrupt) -> None:
    if not path:
        raise DataError("path: name the folder of your images")
    if size < 1:
        raise DataError(f"size={size}: must be at least 1")
    check_heldout(heldout)
    if labels not in ("folders", "none"):
        raise DataError(f"labels={labels!r}: choose from folders, none")
    if crop not in ("centre", "random"):
        raise DataError(f"crop={crop!r}: choose from centre, random")
    if windows < 1:
        raise DataError(f"windows={windows}: must be at least 1")
    if channels not in (1, 3):
        raise DataError(f"channels={channels}: choose from 1, 3")
    if not 0 <= max_corrupt <= 1:
        raise DataError(f"max_corrupt={max_corrupt}: must be a fraction")


def _class_names(root: Path, files: list[File]) -> tuple[str, ...]:
    """The folders in ``root``, sorted, where images are in them; none where images are in ``root``."""
    used = {_top(file.path) for file in files}
    loose = [file.path for file in files if not _top(file.path)]
    if used <= {""}:
        return ()
    if loose:
        raise DataError(f"{str(root)!r} has class folders, and {loose[0]} beside them: move it, or labels='none'")
    with os.scandir(root) as entries:
        folders = {e.name for e in entries if e.is_dir() and e.name[0] != "." and not os.path.samefile(e, root)}
    if folders > used:
        raise DataError(f"class folders without a readable image in {str(root)!r}: {', '.join(sorted(folders - used))}")
    return tuple(sorted(used))


def _top(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""
