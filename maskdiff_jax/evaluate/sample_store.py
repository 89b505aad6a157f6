"""Samples that stay on disk, so that an interrupted evaluation goes on, and another metric needs no new ones.

    folder/samples/000000000-000000500.npz    images uint8 [500, h, w, c], labels int32 [500] where there are any

Sample i depends on the settings of its folder and on i alone: a larger number of samples begins with the smaller one.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from maskdiff_jax.evaluate.image_sets import ImageSet
from maskdiff_jax.train.files import write_atomically

_NAME = re.compile(r"(\d+)-(\d+)\.npz")

# (first, count) -> images first to first + count - 1, uint8 [count, h, w, c].
Draw = Callable[[int, int], np.ndarray]


def at_hand(folder: Path) -> int:
    """How many samples, counted from the first on, are in ``folder``, whole and undamaged."""
    files = _follow(folder)
    return files[-1][1] if files else 0


def fill(folder: Path, start: int, count: int, draw: Draw, size: int, labels: np.ndarray | None = None) -> int:
    """Draw the samples from number ``start``, which are `at_hand`, to ``count``, ``size`` at a time; how many.

    ``labels`` [count] are written beside them. After a file that is damaged all are drawn again.
    """
    first = start
    while first < count:
        stop = min(first + size, count)
        arrays = {"images": draw(first, stop - first)}
        if labels is not None:
            arrays["labels"] = labels[first:stop]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        write_atomically(folder / f"{first:09d}-{stop:09d}.npz", buffer.getvalue())
        first = stop
    return max(0, count - start)


def stored(folder: Path, count: int) -> ImageSet:
    """The first ``count`` samples of ``folder``. Raises ValueError where there are fewer."""
    files = _follow(folder)
    if not files or files[-1][1] < count:
        raise ValueError(f"{folder}: {files[-1][1] if files else 0} samples, {count} are needed")
    read = [(path, min(stop, count) - start) for start, stop, path in files if start < count]
    with np.load(read[0][0], allow_pickle=False) as arrays:
        shape, labelled = arrays["images"].shape[1:], "labels" in arrays.files

    def array(name: str) -> Iterator[np.ndarray]:
        for path, length in read:
            with np.load(path, allow_pickle=False) as arrays:
                yield arrays[name][:length]

    labels = np.concatenate(list(array("labels"))) if labelled else None
    return ImageSet(folder, shape, count, lambda: array("images"), labels)


def images_at(samples: ImageSet, ids: np.ndarray) -> np.ndarray:
    """The images ``ids`` of a set, in their order."""
    found: dict[int, np.ndarray] = {}
    start, wanted = 0, {int(i) for i in ids}
    for batch in samples.batches():
        found |= {i: batch[i - start] for i in wanted if start <= i < start + len(batch)}
        start += len(batch)
    return np.stack([found[int(i)] for i in ids])


def _follow(folder: Path) -> list[tuple[int, int, Path]]:
    """(first, stop, file) of the files that follow each other from 0 on; of several that begin alike the longest."""
    starts: dict[int, list[tuple[int, Path]]] = {}
    for path in folder.glob("*.npz"):
        if name := _NAME.fullmatch(path.name):
            starts.setdefault(int(name[1]), []).append((int(name[2]), path))
    files: list[tuple[int, int, Path]] = []
    at = 0
    while sound := [(stop, path) for stop, path in starts.get(at, []) if stop > at and _sound(path)]:
        stop, path = max(sound)
        files.append((at, stop, path))
        at = stop
    return files


def _sound(path: Path) -> bool:
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except (BadZipFile, OSError, EOFError, ValueError, zlib.error):
        return False
