"""The endless stream of training batches on one host: batch s is a pure function of s.

So a restart at step s needs no more than s, and every host works its slice of a global batch out alone.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from maskdiff_jax.data.augment import Augment, ImageShape, none
from maskdiff_jax.data.source import Source


@dataclass(frozen=True, eq=False)
class Plan:
    """What batch s holds: the samples ``part`` of global batch s, of ``batch`` samples."""

    source: Source
    batch: int
    seed: int
    augment: Augment
    part: slice
    fetch: bool = True

    def __call__(self, step: int) -> dict[str, Any]:
        n = len(self.source)
        position = step * self.batch + np.arange(self.batch)[self.part]
        index = shuffled(position, n, self.seed)
        number = position // n * n + index
        records = self.source.fetch(index) if self.fetch else {}
        shape = records["image"].shape[1:] if self.fetch else self._shape
        controls = self.augment.controls(self.seed, number, shape)
        return {**records, "index": index, "number": number, "controls": controls}

    @cached_property
    def _shape(self) -> ImageShape:
        return self.source.fetch(np.zeros(1, np.int32))["image"].shape[1:]


def shuffled(position: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The index in 0..n-1 at each position of the endless stream, in which every epoch is a permutation of its own."""
    epoch, place = np.divmod(position, n)
    index = np.empty(len(position), np.int32)
    for e in np.unique(epoch).tolist():
        index[epoch == e] = _permutation(n, seed, e)[place[epoch == e]]
    return index


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Sorted random bits: 4 bytes a sample, made once per epoch; raw bits are the same in every version of NumPy.

    grain's index shuffle needs no memory, but takes 4 µs per index of a large set and 3 ms of one with ten samples, and
    its stream under seed 1 is that under seed 0, an epoch later.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int32)


class Batches(Iterator[dict[str, Any]]):
    """One host's slices of the global batches, from step ``start`` on, without end.

    Each is a dict of NumPy arrays: ``image`` [b, h, w, c] as stored, ``label`` int32 [b] where there are labels,
    other records of the source, ``index`` int32 [b] in it, ``number`` int64 [b], the running number epoch·n + index,
    and ``controls``, the dict of what the augmentation will do. Samples are shuffled anew in every epoch and cut into
    batches of ``batch`` across epochs, so that there is never a partial batch; host i of ``process_count`` holds the
    i-th contiguous part. ``fetch=False`` leaves the source's records out, for data that are resident on the device.

    ``prefetch`` batches are loaded ahead by as many threads (0: none), in ``workers`` processes where that is not 0;
    with both at 0 batches are made as they are asked for, without grain.
    Worker processes need a main module with an ``if __name__ == "__main__"`` guard, and absl flags that are parsed.
    Raises ValueError where the arguments do not fit together.
    """

    def __init__(
        self,
        source: Source,
        batch: int,
        seed: int,
        augment: Augment | None = None,
        *,
        process_index: int = 0,
        process_count: int = 1,
        start: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        fetch: bool = True,
    ):
        augment = augment or none()
        if batch < 1 or batch % process_count:
            raise ValueError(f"batch={batch}: must be a positive multiple of the number of processes, {process_count}")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index={process_index}: must be between 0 and {process_count - 1}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed}: must be in [0, 2**64)")
        if not 0 < len(source) <= 2**31:
            raise ValueError(f"a source must hold between 1 and 2**31 samples, got {len(source)}")
        if min(start, workers, prefetch) < 0:
            raise ValueError(f"start={start}, workers={workers}, prefetch={prefetch}: none may be negative")
        size = batch // process_count
        self.at = Plan(source, batch, seed, augment, slice(process_index * size, (process_index + 1) * size), fetch)
        self._workers, self._prefetch = workers, prefetch
        self._step = start
        self._stream: Any = None  # an iterator with a close()
        self._fingerprint = {"data": source.fingerprint, "seed": seed, "batch": batch, "augment": augment.spec}

    def __next__(self) -> dict[str, Any]:
        stream = self._stream = self._stream or self._open()
        batch = next(stream)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of the next step, and what must be equal for it to mean the same batch; plain JSON.

        The number of hosts is not part of it: a run may go on with another one.
        """
        return {"step": self._step, "fingerprint": dict(self._fingerprint)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as the iterator that gave ``state``; ValueError where its batches would be others."""
        theirs, ours = state["fingerprint"], self._fingerprint
        differing = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if differing:
            details = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differing)
            raise ValueError(f"the saved position belongs to another stream of batches: {details}")
        self.close()
        self._step = int(state["step"])

    def indices(self, step: int) -> np.ndarray:
        """Which samples of the source make up global batch ``step``, those of all hosts, int32 [batch]."""
        plan = self.at
        return shuffled(step * plan.batch + np.arange(plan.batch), len(plan.source), plan.seed)

    def close(self) -> None:
        """Stop the threads and processes that load ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> Any:
        if not (self._workers or self._prefetch):
            return (self.at(step) for step in itertools.count(self._step))
        import grain  # only here, so that the rest works without it

        threads = grain.ReadOptions(num_threads=self._prefetch, prefetch_buffer_size=self._prefetch)
        steps = grain.MapDataset.range(sys.maxsize).map(self.at)[self._step :].to_iter_dataset(threads)
        if self._workers:
            options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=max(1, self._prefetch))
            steps = steps.mp_prefetch(options)
        return iter(steps)
