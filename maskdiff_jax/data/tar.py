"""Images in tar files, with their labels and captions beside them: the shards of the webdataset convention."""

import glob
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from maskdiff_jax.data.decode import Window, square
from maskdiff_jax.data.folder import EXTENSIONS
from maskdiff_jax.data.scan import pool
from maskdiff_jax.data.source import DataError, Dataset, digest
from maskdiff_jax.data.split import check_heldout, held_out

BLOCK = 512  # bytes; a tar ends with two empty ones


class Member(NamedTuple):
    """A file in a tar: which tar, and where its bytes are."""

    tar: int
    offset: int
    bytes: int


class Sample(NamedTuple):
    """An image and what has its stem. ``key``: "name.tar/stem"; ``caption``: a .txt, or else, ``as_json``, a .json."""

    key: str
    image: Member
    label: int | None
    caption: Member | None
    as_json: bool


def tar(
    path: str | os.PathLike | None,
    size: int,
    heldout: float = 0.01,
    labels: bool = True,
    captions: bool = True,
    channels: int = 3,
    caption_key: str = "caption",
    leave_out: Sequence[str] = (),
    extensions: Sequence[str] = EXTENSIONS,
) -> Dataset:
    """The images in one .tar, in those of a folder or in those that a pattern names, as uint8 [size, size, channels].

    Files of one stem are a sample: "a/0012.jpg" with "a/0012.cls" (the number of its class), "a/0012.txt" (its caption)
    or "a/0012.json" (a caption under ``caption_key``, where there is no .txt). Files of one sample are in one tar.
    `decode.square` says how images of any size become squares; records have ``original``, int32 [b, 2], their height
    and width. Tars are read where an image is, so they must not be compressed.

    labels: with the classes, where there is a .cls; then every image must have one.
    captions: with the captions, where there are any; images may lack one, which is then "".
    heldout: a fraction, or a number of images from 1 on; which ones follows from a hash of "name.tar/stem". Every class
        keeps an image to train on.
    leave_out: samples to ignore, as "name.tar/stem".

    Opening reads the headers of all files in the tars, images are decoded when they are asked for. Raises DataError for
    missing, broken, cut or compressed tars, no images, a stem twice, and labels that are missing or no numbers; later,
    with its name, for an image that does not decode.
    """
    if size < 1:
        raise DataError(f"size={size}: must be at least 1")
    check_heldout(heldout)
    if channels not in (1, 3):
        raise DataError(f"channels={channels}: choose from 1, 3")
    tars = _tars(path)
    ignored = set(leave_out)
    caption = caption_key if captions else None
    samples = [s for i, file in enumerate(tars) for s in _samples(i, file, tuple(extensions), labels, caption)]
    samples = [sample for sample in samples if sample.key not in ignored]
    if not samples:
        raise DataError(f"path={str(path)!r}: no image in it ends in {', '.join(extensions)}")
    classes = _classes(samples)
    captioned = any(sample.caption for sample in samples)
    label = np.array([sample.label or 0 for sample in samples], np.int32)
    held = held_out([sample.key for sample in samples], label, heldout)

    def source(chosen: np.ndarray) -> TarSource:
        part = [samples[i] for i in chosen]
        identity = [(s.key, s.image.bytes, s.label, s.caption and s.caption.bytes) for s in part]
        options = (size, channels, classes, captioned, caption_key if captioned else "")
        return TarSource(
            tars=tuple(map(str, tars)),
            samples=tuple(part),
            size=size,
            channels=channels,
            labelled=classes > 0,
            caption_key=caption_key,
            fingerprint=digest(identity, *options),
        )

    return Dataset(
        name="tar",
        shape=(size, size, channels),
        classes=classes,
        train=source(np.flatnonzero(~held)),
        heldout=source(np.flatnonzero(held)),
        extras=(("original", (2,)),),
        captions=captioned,
    )


@dataclass(frozen=True, eq=False)
class TarSource:
    """Samples of tars, read and decoded when they are asked for; the fingerprint covers names, sizes and labels."""

    tars: tuple[str, ...]
    samples: tuple[Sample, ...]
    size: int
    channels: int
    labelled: bool
    caption_key: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        chosen = [self.samples[i] for i in indices]
        views = list(pool().map(self._view, chosen))
        original = np.array([(view.height, view.width) for view in views], np.int32)
        records = {"image": np.stack([view.image for view in views]), "original": original}
        return records | ({"label": np.array([s.label for s in chosen], np.int32)} if self.labelled else {})

    def captions(self, indices: np.ndarray) -> list[str]:
        """Their captions, "" where there is none."""
        return [self._caption(self.samples[i]) for i in indices]

    def _view(self, sample: Sample) -> Window:
        try:
            return square(io.BytesIO(self._read(sample.image)), self.size, self.channels)
        except Exception as error:  # on bad input Pillow raises errors of any kind
            why = f"{sample.key} in {self.tars[sample.image.tar]!r} cannot be read as an image: {error}"
            raise DataError(f"{why}; leave_out=({sample.key!r},) ignores it") from error

    def _caption(self, sample: Sample) -> str:
        if sample.caption is None:
            return ""
        try:
            text = self._read(sample.caption).decode()
            return str(json.loads(text)[self.caption_key]) if sample.as_json else text.strip()
        except (ValueError, KeyError) as error:
            where = f"{sample.key} in {self.tars[sample.caption.tar]!r}"
            raise DataError(f"the caption of {where} cannot be read: {error}") from error

    def _read(self, member: Member) -> bytes:
        with open(self.tars[member.tar], "rb") as file:
            file.seek(member.offset)
            return file.read(member.bytes)


def _tars(path: str | os.PathLike | None) -> list[Path]:
    if not path:
        raise DataError("path: name the tar files, their folder, or a pattern as 'shards/*.tar'")
    root = Path(path).expanduser()
    found = sorted(root.glob("*.tar")) if root.is_dir() else sorted(map(Path, glob.glob(str(root))))
    if not found:
        raise DataError(f"path={str(path)!r}: no such tar files")
    return [file.absolute() for file in found]


def _samples(
    number: int, path: Path, extensions: tuple[str, ...], labels: bool, caption_key: str | None
) -> list[Sample]:
    """The samples of a tar, in its order; without captions where ``caption_key`` is None."""
    images: dict[str, Member] = {}
    beside: dict[str, dict[str, Member]] = {".cls": {}, ".txt": {}, ".json": {}}
    for name, member in _members(number, path):
        stem, extension = os.path.splitext(name)
        if extension.lower() in extensions:
            if stem in images:
                raise DataError(f"{path}: {stem} is the stem of two images")
            images[stem] = member
        elif extension in beside:
            beside[extension][stem] = member
    found = []
    with open(path, "rb") as file:
        for stem, image in images.items():
            label = _label(file, path, stem, beside[".cls"][stem]) if labels and stem in beside[".cls"] else None
            caption = beside[".txt"].get(stem) if caption_key else None
            described = beside[".json"].get(stem) if caption_key and caption is None else None
            as_json = described is not None and _describes(file, described, caption_key)
            found.append(Sample(f"{path.name}/{stem}", image, label, described if as_json else caption, as_json))
    return found


def _members(number: int, path: Path) -> Iterator[tuple[str, Member]]:
    """The files in a tar, hidden ones left out."""
    try:
        with tarfile.open(path, "r:") as archive:
            while info := archive.next():
                if info.isfile() and not os.path.basename(info.name).startswith("."):
                    yield info.name, Member(number, info.offset_data, info.size)
                vars(archive)["members"].clear()  # or all headers stay in memory
            if path.stat().st_size < archive.offset + BLOCK:
                raise tarfile.ReadError("it does not end as a tar does")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is cut, compressed or no tar: {error}") from error


def _label(file: BinaryIO, path: Path, key: str, member: Member) -> int:
    file.seek(member.offset)
    text = file.read(member.bytes)
    if not text.strip().isdigit():
        raise DataError(f"{path}: {key}.cls is {text[:20]!r}, not the number of a class (labels=False ignores it)")
    return int(text)


def _describes(file: BinaryIO, member: Member, name: str | None) -> bool:
    """Whether a .json holds a caption."""
    file.seek(member.offset)
    try:
        value = json.loads(file.read(member.bytes))
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get(name), str)


def _classes(samples: Sequence[Sample]) -> int:
    """The number of classes, 0 where no sample has one."""
    lacking = next((sample.key for sample in samples if sample.label is None), None)
    known = [sample.label for sample in samples if sample.label is not None]
    if known and lacking is not None:
        raise DataError(f"{lacking} has no .cls, as others have: add it, or labels=False")
    return 1 + max(known) if known else 0
