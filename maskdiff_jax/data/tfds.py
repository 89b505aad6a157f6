"""Any image data set of TensorFlow Datasets, read (and prepared, where it is absent) without TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from maskdiff_jax.data.prepare import data_folder, prepare
from maskdiff_jax.data.source import DataError, Dataset, digest


def tfds(
    dataset: str,
    data_dir: str | PathLike | None = None,
    train_split: str = "train",
    heldout_split: str = "test",
    image_key: str = "image",
    label_key: str | None = "label",
    size: int | None = None,
    download: bool = True,
) -> Dataset:
    """The data set ``dataset`` ("cifar10", "name/config", "name:1.2.3") as prepared in ``data_dir``.

    It must be stored as ArrayRecord; ``data_dir`` defaults to TFDS's own (~/tensorflow_datasets). Where it is absent it
    is downloaded and prepared (`prepare`), but not with ``download=False``, and not in a named folder that does not
    exist, which is more often mistyped. Splits may be parts ("train[:90%]"), and must not overlap. ``label_key=None``
    ignores labels. ``size`` cuts the central square out of every image and resizes it to [size, size] (bicubic,
    antialiased), and records have ``original``, int32 [b, 2], the height and width before; without it all images must
    have one size.
    Raises DataError, naming what was looked for and what is there.
    """
    if size is not None and size < 1:
        raise DataError(f"size={size}: must be at least 1")
    builder = _builder(dataset, data_dir, download)
    info, features = builder.info, builder.info.features
    wanted = {"image_key": image_key} | ({} if label_key is None else {"label_key": label_key})
    for option, key in wanted.items():
        if key not in features:
            raise DataError(f"{option}={key!r}: {info.full_name} has {', '.join(sorted(features))}")
    classes = getattr(features[label_key], "num_classes", None) if label_key else 0
    if classes is None:
        raise DataError(f"label_key={label_key!r} of {info.full_name} is no class label (label_key=None: unlabelled)")
    if _overlap(_parts(info, "train_split", train_split), _parts(info, "heldout_split", heldout_split)):
        raise DataError(f"train_split={train_split!r} and heldout_split={heldout_split!r} share records")
    shape = _shape(builder, train_split, image_key, size)
    resize = None if size is None else _CentralSquare(size)

    def source(split: str) -> TfdsSource:
        identity = digest(info.full_name, split, image_key, label_key, size, _files(builder))
        return TfdsSource(str(builder.data_path), _open(builder, split), image_key, label_key, shape, resize, identity)

    names = tuple(features[label_key].names or ()) if label_key else ()
    extras = () if size is None else (("original", (2,)),)
    return Dataset(info.name, shape, classes, source(train_split), source(heldout_split), names, extras=extras)


@dataclass(frozen=True, eq=False)
class TfdsSource:
    """Records of one split in ``folder``, decoded to uint8 ``shape`` (h, w, c)."""

    folder: str
    records: Any
    image_key: str
    label_key: str | None
    shape: tuple[int, int, int]
    resize: Callable[[np.ndarray], np.ndarray] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.records)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        try:
            records = self.records.__getitems__(indices.tolist())  # one read; item by item is several times slower
        except Exception as error:  # whatever broken files provoke
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"records in {self.folder!r} can no longer be read: {why}") from error
        stored = [record[self.image_key] for record in records]
        found = {"image": np.stack([self._image(image) for image in stored])}
        if self.label_key is not None:
            found["label"] = np.array([record[self.label_key] for record in records], np.int32)
        if self.resize is not None:
            found["original"] = np.array([image.shape[:2] for image in stored], np.int32)
        return found

    def _image(self, image: np.ndarray) -> np.ndarray:
        image = image if self.resize is None else self.resize(image)
        if image.shape != self.shape:
            raise DataError(f"images of {list(self.shape)} and {list(image.shape)} in one data set: set size")
        return image


@dataclass(frozen=True)
class _CentralSquare:
    size: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width, channels = image.shape
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        square = (left, top, left + side, top + side)
        planes = Image.fromarray(image[..., 0] if channels == 1 else image)
        planes = planes.resize((self.size, self.size), Image.Resampling.BICUBIC, box=square)
        return np.asarray(planes).reshape(self.size, self.size, channels)


def _builder(dataset: str, data_dir: str | PathLike | None, download: bool) -> Any:
    """The reader of a prepared data set, from its files alone: the code that prepared it is not imported."""
    from tensorflow_datasets.core import read_only_builder, registered  # only for those who use it

    folder = data_folder(data_dir)
    try:
        return read_only_builder.builder_from_files(dataset, data_dir=str(folder))
    except registered.DatasetNotFoundError as error:
        missing = _missing(dataset, folder)
        if not download:
            raise DataError(missing) from error
        if data_dir and not folder.is_dir():
            raise DataError(
                f"{missing}; there is no folder {str(folder)!r}: make it to prepare the set there"
            ) from error
    except ValueError as error:
        raise DataError(f"dataset={dataset!r}: not of the form name[/config][:version]") from error
    try:
        return read_only_builder.builder_from_directory(prepare(dataset, folder))
    except DataError as error:
        raise DataError(f"{missing}; {error}") from error


def _missing(dataset: str, folder: epath.Path) -> str:
    name, _, version = dataset.partition(":")
    infos = (path for depth in ("*/*", "*/*/*") for path in folder.glob(f"{depth}/dataset_info.json"))
    there = sorted(str(path.parent.relative_to(folder)) for path in infos if not _unfinished(path.parent))
    return (
        f"dataset={dataset!r}: {folder / name / (version or '*')}/ not found in data_dir={str(folder)!r}; "
        f"prepared sets there: {', '.join(there) or 'none'}"
    )


def _unfinished(folder: epath.Path) -> bool:
    return folder.name.startswith("incomplete.")  # as TFDS names what it writes until it is complete


def _parts(info: Any, option: str, split: str) -> list[tuple[str, int, int]]:
    """The records of a split as (file, start, stop)."""
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise DataError(f"{option}={split!r}: {info.full_name} has the splits {', '.join(info.splits)}") from error
    if not instructions:
        raise DataError(f"{option}={split!r}: no record of {info.full_name}")
    return [(part.filename, part.skip, part.skip + part.take) for part in instructions]


def _overlap(ours: list[tuple[str, int, int]], theirs: list[tuple[str, int, int]]) -> bool:
    return any(f == g and max(a, c) < min(b, d) for f, a, b in ours for g, c, d in theirs)


def _shape(builder: Any, split: str, image_key: str, size: int | None) -> tuple[int, int, int]:
    """(h, w, c) of all images: as declared, or else that of the first record (`TfdsSource` checks every other)."""
    feature = builder.info.features[image_key]
    if feature.np_dtype != np.uint8 or len(feature.shape) != 3:
        raise DataError(
            f"image_key={image_key!r} of {builder.info.full_name} is {feature.np_dtype} {list(feature.shape)}; "
            "8-bit images [h, w, c] are needed"
        )
    shape = feature.shape if None not in feature.shape else _open(builder, split)[0][image_key].shape
    return shape if size is None else (size, size, shape[-1])


def _open(builder: Any, split: str) -> Any:
    try:
        records = builder.as_data_source(split=split)
    except NotImplementedError as error:
        stored = builder.info.file_format.value
        raise DataError(f"{builder.data_path} is stored as {stored}; prepare it as array_record") from error
    if missing := [str(path) for path in builder.info.splits[split].filepaths if not path.exists()]:
        raise DataError(f"{missing[0]} is missing, which {builder.info.full_name} needs: put it back or prepare it")
    return records


def _files(builder: Any) -> list[tuple[str, int]]:
    """Every file of the data set with its size in bytes."""
    return sorted((path.name, path.stat().length) for path in builder.data_path.iterdir() if path.is_file())
