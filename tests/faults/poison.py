"""Digits of which one pixel is no number, for ``--config.data.name=tests.faults.poison:poisoned``."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data import ArraySource, DataError, Dataset, digits, to_float
from maskdiff_jax.data.pipeline import shuffled

IMAGES = 64  # so few that each of them comes several times in a short run


class Poison(NamedTuple):
    """What is wrong with the data: training image ``index`` has the number ``value`` in one pixel."""

    index: int
    value: str

    def put(self, path: Path) -> tuple[str, ...]:
        """Write it to a file; the arguments of a run with these data."""
        path.write_text(f"{self.index} {self.value}\n")
        return "--config.data.name=tests.faults.poison:poisoned", f"--config.data.path={path}"

    def batches(self, batch: int, steps: int, seed: int = 0) -> int:
        """How many of the first ``steps`` batches of a run hold the image."""
        stream = shuffled(np.arange(batch * steps), IMAGES, seed).reshape(steps, batch)
        return int(np.sum(np.any(stream == self.index, axis=1)))


def poisoned(path: str) -> Dataset:
    """64 digits as float32 [8, 8, 1], and the `Poison` that the file ``path`` holds.

    Raises DataError where there is no such file or image, or where the value is a finite number.
    """
    try:
        index, value = Path(path).read_text().split()
    except (OSError, ValueError) as error:
        raise DataError(f"path={path!r}: {error}") from error
    if not 0 <= int(index) < IMAGES or math.isfinite(float(value)):
        raise DataError(f"path={path!r}: an index below {IMAGES} and nan, inf or -inf, not {index} {value}")
    clean = digits(limit=IMAGES)
    train, heldout = (_as_float(source.fetch(np.arange(len(source)))) for source in (clean.train, clean.heldout))
    train.image[int(index), 3, 4, 0] = float(value)
    return clean._replace(name="poisoned_digits", train=train, heldout=heldout, dtype="float32")


def _as_float(records: dict[str, Any]) -> ArraySource:
    return ArraySource(to_float(records["image"]), records["label"])
