"""Images that an autoencoder has encoded, and their embedded captions, as ``--mode=encode`` writes them.

A folder of ArrayRecord files and ``index.json``, which says what is in them and is written last. The record of an image
is the mean and the standard deviation of its latents in half precision; which latents a training step sees is drawn on
the device, anew each time.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax import codec
from maskdiff_jax.data.augment import Augment, Controls, ImageShape
from maskdiff_jax.data.controls import originals
from maskdiff_jax.data.philox import uniform
from maskdiff_jax.data.records import Records, record_type
from maskdiff_jax.data.source import DataError, Dataset, Latents, digest, embeddings
from maskdiff_jax.types import CondShape

FORMAT, VERSION = "latents of maskdiff_jax", 1
INDEX = "index.json"
SPLITS = ("train", "heldout")
KNOWN = ("image", "label", "text", "text_mask", "pooled")  # the other fields are int32 records of the data set


def latents(
    path: str | os.PathLike | None,
    vae: str | None = None,
    flip: float = 0.5,
    text: bool = True,
    tile: int = 0,
) -> Dataset:
    """The latents in the folder ``path``, float16 [h, w, 2c]: c channels of means, then c of standard deviations.

    vae: the folder of the autoencoder that makes pictures of them; by default the one that they are from, where it
        still is. Without it they can be trained on, but nothing is drawn.
    flip: the chance of the mirrored image's latents, where those are stored, too ([h, w, 4c], theirs last); the first
        ones on held-out images. Control ``flip``.
    text: with the embedded captions, where there are any; False leaves them out.
    tile: the side of the squares of latents that are decoded one by one, for large images; 0 decodes them whole.

    Held out is what was held out of the images that were encoded. Records have ``original``, int32 [b, 2], the height
    and width of the image before it was resized.
    Raises DataError for a folder that is missing, unfinished or of another format, and files that are missing or cut.
    """
    if not 0 <= flip <= 1:
        raise DataError(f"flip={flip}: must be a probability")
    if tile < 0:
        raise DataError(f"tile={tile}: a number of latents, or 0 to decode whole ones")
    if not path:
        raise DataError("path: name the folder of the latents, which --mode=encode makes")
    root = Path(path).expanduser()
    index = read_index(root)
    kind = record_type(index["fields"])
    shape, pairs = kind["image"].shape, 1 + index["mirrored"]
    channels = shape[-1] // (2 * pairs)
    image_shape = tuple(index["image_shape"])
    sizes = CondShape(**index["text"]["sizes"]) if text and index["text"] else CondShape()
    extras = tuple((name, kind[name].shape) for name in kind.names or () if name not in KNOWN)
    used = pairs if flip else 1
    names = ("image", *(["label"] if index["classes"] else []), *dict(extras), *embeddings(sizes))

    def source(split: str) -> LatentSource:
        shards = index["splits"][split]
        identity = digest(index["fields"], [(shard["sha256"], shard["records"]) for shard in shards], names, used)
        records = Records.open(root.absolute(), kind, [(shard["file"], shard["records"]) for shard in shards])
        return LatentSource(records, names, 2 * channels * used, image_shape, identity)

    return Dataset(
        name=f"{index['name']}_latents",
        shape=(*shape[:2], 2 * channels * used),
        classes=index["classes"],
        train=source("train"),
        heldout=source("heldout"),
        class_names=tuple(index["class_names"]),
        dtype="float16",
        extras=tuple((dict(extras) | {"original": (2,)}).items()),
        text=sizes,
        latents=Latents(
            codec=codec.latents(index["vae"]["scaling"], index["vae"]["shift"]),
            augment=stored(image_shape, flip if pairs > 1 else 0.0),
            image_shape=image_shape,
            vae=_folder(vae, index["vae"]["folder"]),
            tile=tile,
            text=(index["text"]["source"], sizes.text_length) if sizes.text_width else None,
        ),
    )


def stored(image_shape: tuple[int, int, int], rate: float) -> Augment:
    """What stands in for augmentations of images (H, W, C) that are encoded: one of the two latents that are stored.

    They are the mirrored image's with probability ``rate``, and then control ``flip`` is 1; with a rate of 0 records
    hold one. ``target_height`` and ``target_width`` are the image's.
    """
    height, width, _ = image_shape
    names = ("target_height", "target_width", *(("flip",) if rate else ()))

    def augment(rate: float) -> Augment:
        def controls(seed: int, numbers: np.ndarray, shape: ImageShape) -> Controls:
            count = len(numbers)
            sides = {"target_height": np.full(count, height, np.int32), "target_width": np.full(count, width, np.int32)}
            flip = (uniform(seed, numbers, "flip")[0] < rate).astype(np.int32)
            return {name: value for name, value in {**sides, "flip": flip}.items() if name in names}

        return Augment(f"stored(flip={float(rate)})", controls, apply, names, shape)

    def apply(records, controls):
        if "flip" not in controls:
            return records
        xp, half = records.__array_namespace__(), records.shape[-1] // 2
        return xp.where(controls["flip"][:, None, None, None] == 1, records[..., half:], records[..., :half])

    def shape(shape: ImageShape) -> ImageShape:
        h, w, channels = shape
        return (h, w, channels // 2) if "flip" in names else shape

    return augment(rate)._replace(still=augment(0))


@dataclass(frozen=True, eq=False)
class LatentSource:
    """Records of one split: the first ``channels`` of what is stored, and the other fields ``names``."""

    records: Records
    names: tuple[str, ...]
    channels: int
    image_shape: tuple[int, int, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.records)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = self.records.fetch(indices)
        found = {name: np.ascontiguousarray(rows[name]) for name in self.names if name != "image"}
        found["image"] = np.ascontiguousarray(rows["image"][..., : self.channels])
        return {"original": originals(self.image_shape, len(indices))} | found


def read_index(root: Path) -> dict[str, Any]:
    """The index of a folder of latents. Raises DataError: see `latents`."""
    if not root.is_dir():
        raise DataError(f"path={str(root)!r}: no such folder; --mode=encode makes it")
    try:
        index = json.loads((root / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{root} has no {INDEX}: it is no folder of latents, or --mode=encode must finish it"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{root / INDEX} cannot be read: {error}") from error
    said = (index.get("format"), index.get("version")) if isinstance(index, dict) else None
    if said != (FORMAT, VERSION):
        raise DataError(f"{root / INDEX} is not of the format {FORMAT!r}, version {VERSION}")
    check_shards(root, index)
    return index


def check_shards(root: Path, index: Mapping[str, Any], missing: bool = False) -> None:
    """Raise DataError where a file that an index names is of another size, or, unless ``missing`` may be, missing.

    Contents are not read.
    """
    for shard in (shard for split in SPLITS for shard in index["splits"][split]):
        path = root / shard["file"]
        size = path.stat().st_size if path.exists() else None
        if size != shard["bytes"] and not (missing and size is None):
            found = "is missing" if size is None else f"has {size:,} bytes, not {shard['bytes']:,}"
            raise DataError(f"{path} {found}: remove it, and --mode=encode makes it again")


def _folder(given: str | None, known: str) -> str:
    """The autoencoder's folder: the one that is named, or the one that was used, where it is still there."""
    if given:
        if not Path(given).expanduser().is_dir():
            raise DataError(f"vae={given!r}: no such folder")
        return str(Path(given).expanduser())
    return known if Path(known).is_dir() else ""
