"""The image files of a folder, and which of them are broken: found by decoding each of them once."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL

from maskdiff_jax.data.decode import square
from maskdiff_jax.data.source import digest
from maskdiff_jax.machine import cache_folder

REMEMBERED = 1000  # files from which on a scan is worth a file in the cache
SHOWN = 10_000  # and a progress bar
_CHUNK = 32


class File(NamedTuple):
    path: str  # below the folder, with /
    bytes: int
    modified: int  # in nanoseconds


def image_files(
    folder: str, extensions: tuple[str, ...], prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[File]:
    """The files below ``folder`` that end in one of ``extensions``, in any order, hidden files and folders left out.

    Links are followed, but not to a folder that they are in. Raises OSError for a folder that may not be read.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from image_files(entry.path, extensions, f"{prefix}{entry.name}/", above | {here})
            elif entry.name.lower().endswith(extensions):
                if entry.is_file():
                    yield File(prefix + entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                elif entry.is_symlink():  # to nowhere: an image that cannot be read
                    yield File(prefix + entry.name, 0, 0)


def unreadable(root: Path, files: Sequence[File]) -> list[str]:
    """The paths of those ``files`` below ``root`` that do not decode.

    For many files the answer is kept in ``$XDG_CACHE_HOME/maskdiff_jax`` (~/.cache/maskdiff_jax), which may be deleted.
    It holds until one of the files is changed, added or removed; what was broken is tried again each time.
    """
    paths = [file.path for file in files]
    if len(files) < REMEMBERED:
        return _broken(root, paths)
    key = digest(str(root.absolute()), [tuple(file) for file in files], PIL.__version__)
    cache = cache_folder(os.environ) / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return _broken(root, json.loads(cache.read_text()))
    broken = _broken(root, paths)
    with contextlib.suppress(OSError):  # a home that cannot be written to costs time, no more
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(broken))
        partial.replace(cache)
    return broken


def _broken(root: Path, paths: list[str]) -> list[str]:
    from tqdm import tqdm  # only here, so that the rest works without it

    def check(chunk: list[str]) -> list[str]:
        return [path for path in chunk if not _decodes(root / path)]

    broken = []
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    hidden = True if len(paths) < SHOWN else None  # None: shown on a terminal
    with tqdm(desc="checking images", total=len(paths), unit="img", disable=hidden, leave=False, ncols=79) as bar:
        for chunk, found in zip(chunks, pool().map(check, chunks), strict=True):
            broken += found
            bar.update(len(chunk))
    return broken


def _decodes(path: Path) -> bool:
    try:
        square(path, 1)
        return True
    except Exception:  # on bad input Pillow raises OSError, SyntaxError, ValueError, struct.error …
        return False


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads that decode images, shared by all sources of the process. Decoding lets go of Python's lock."""
    return ThreadPoolExecutor(thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # threads do not survive a fork
