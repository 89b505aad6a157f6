"""CIFAR-10 from one file that needs Pillow alone, for machines without TFDS.

    python -m benchmarks.claims.packed --data=DIR --out=cifar10.npz

packs the images of a TFDS folder as they are stored there (PNG or JPEG): 60,000 small files in one of their size.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from maskdiff_jax.data.source import ArraySource, DataError, Dataset
from maskdiff_jax.train.files import write_atomically

SPLITS = ("train", "test")


def cifar10(path: str = "") -> Dataset:
    """CIFAR-10 of ``path``: a file that `pack` has written, or a folder that TFDS has prepared.

    Raises DataError where there is neither, or the file is not of that kind.
    """
    if not path:
        raise DataError("path='': --data=PATH, a folder of TFDS or a file of `python -m benchmarks.claims.packed`")
    if Path(path).is_dir():
        from maskdiff_jax.data import DATASETS  # the TFDS reader, for those who have TFDS

        return DATASETS["tfds"]("cifar10", data_dir=path, download=False)
    if not Path(path).is_file():
        raise DataError(f"path={path!r}: no such folder or file")
    with np.load(path) as file:
        missing = [key for split in SPLITS for key in keys(split) if key not in file]
        if missing:
            raise DataError(f"path={path!r}: no {missing[0]!r}; it is not a file of benchmarks.claims.packed")
        train, heldout = (unpack(*(file[key] for key in keys(split))) for split in SPLITS)
    return Dataset("cifar10", train.image.shape[1:], 10, train, heldout)


def keys(split: str) -> tuple[str, str, str]:
    """The arrays of a split: all files in a row, where each ends, and the labels."""
    return f"{split}_bytes", f"{split}_ends", f"{split}_labels"


def unpack(data: np.ndarray, ends: np.ndarray, labels: np.ndarray) -> ArraySource:
    """Images decoded from their files: uint8 [n] in a row, ``ends`` int64 and ``labels`` of each."""
    starts = np.concatenate([[0], ends[:-1]])
    whole = data.tobytes()
    images = [np.asarray(Image.open(io.BytesIO(whole[a:b]))) for a, b in zip(starts, ends, strict=True)]
    return ArraySource(np.stack(images), labels.astype(np.int32))


def pack(files: list[bytes], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `unpack` reads."""
    ends = np.cumsum([len(one) for one in files], dtype=np.int64)
    return np.frombuffer(b"".join(files), np.uint8), ends, labels.astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    import tensorflow_datasets as tfds  # only where a folder is packed

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        raw = {"image": tfds.decode.SkipDecoding()}
        records = tfds.data_source("cifar10", split=split, data_dir=options.data, decoders=raw, download=False)
        found = [records[i] for i in range(len(records))]
        labels = np.array([one["label"] for one in found])
        arrays |= dict(zip(keys(split), pack([one["image"] for one in found], labels), strict=True))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(options.out, buffer.getvalue())
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
