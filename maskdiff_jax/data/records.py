"""Records of arrays of fixed shapes, in ArrayRecord files: of each record its arrays' bytes, one after the other."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from maskdiff_jax.data.source import DataError

OPTIONS = "group_size:1,uncompressed"  # each record is found alone; half-precision noise does not compress

# (name, dtype, shape) of every array of a record, in their order.
Fields = Sequence[tuple[str, str, Sequence[int]]]


class Shard(NamedTuple):
    """One file of records, in the form that `ArrayRecordDataSource` takes without opening it."""

    filename: str
    examples_in_shard: int
    skip: int
    take: int


def record_type(fields: Fields) -> np.dtype:
    """The record as NumPy sees it: packed, little-endian."""
    return np.dtype([(name, np.dtype(dtype).newbyteorder("<"), tuple(shape)) for name, dtype, shape in fields])


def write_shard(path: Path, kind: np.dtype, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write a file of records, which has its name once it is complete; ``parts`` are arrays [b, ...] of every field.

    The same records give the same bytes. Raises DataError where the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming(path):
        writer = ArrayRecordWriter(str(temporary), OPTIONS)
    try:
        for part in parts:
            rows = np.empty(len(part["image"]), kind)
            for name in kind.names or ():
                rows[name] = part[name]
            with _naming(path):
                for row in rows:
                    writer.write(row.tobytes())
        with _naming(path):
            writer.close()
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        if writer.is_open():
            writer.close()
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:  # the library's own are of the first kind
        raise DataError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True, eq=False)
class Records:
    """The records of one split, in files of ``folder``, by their number."""

    folder: str
    kind: np.dtype
    reader: Any

    @classmethod
    def open(cls, folder: Path, kind: np.dtype, shards: Iterable[tuple[str, int]]) -> "Records":
        """The files (name, number of records); none is opened yet."""
        files = [Shard(str(folder / name), count, 0, count) for name, count in shards]
        return cls(str(folder), kind, ArrayRecordDataSource(files))

    def __len__(self) -> int:
        return len(self.reader)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Records [b] of `record_type`. Raises DataError for files that are broken or gone."""
        try:
            stored = self.reader.__getitems__(indices.tolist())  # one read; item by item is several times slower
            rows = np.frombuffer(b"".join(stored), self.kind)
            if len(rows) != len(indices):
                raise ValueError(f"{len(rows)} records of {self.kind.itemsize} bytes, not {len(indices)}")
        except Exception as error:  # whatever broken files provoke
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"records in {self.folder!r} cannot be read: {why}") from error
        return rows
