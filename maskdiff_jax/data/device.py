"""From the host's batches to the images that a training step sees: transfer, gather, augmentation, float."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from maskdiff_jax.data.augment import Augment, none
from maskdiff_jax.data.controls import conditions, originals
from maskdiff_jax.data.pipeline import Batches
from maskdiff_jax.data.pixels import to_float
from maskdiff_jax.data.source import Source
from maskdiff_jax.types import Batch, Cond

Raw = dict[str, Any]


class Feed(NamedTuple):
    """Training data for a jitted step, ``step(state, raw, table)`` that calls ``ingest(raw, table)`` inside.

    ``batches`` yields raw batches on the device, and has get_state, set_state and close; ``table`` is the whole source
    on the device where it is resident, else None. Pass the table as an argument: closed over, it would be baked into
    the program.
    """

    batches: "ToDevice"
    ingest: Callable[..., Batch]
    table: Raw | None = None


def feed(
    source: Source,
    batch: int,
    seed: int,
    augment: Augment | None = None,
    *,
    sharding: NamedSharding | None = None,
    resident: bool = False,
    start: int = 0,
    workers: int = 0,
    prefetch: int = 2,
    controls_high: tuple[str, ...] = (),
    controls_low: tuple[str, ...] = (),
) -> Feed:
    """A `Feed` of global batches of ``batch`` samples, laid out by ``sharding`` (its first axis is the batch).

    ``resident`` keeps the source on every device, as it is stored, so that only indices and controls are sent with
    each step; pixels are the same either way. ``controls_high`` and ``controls_low`` name the controls that are
    conditions. The other arguments are those of `Batches`; host and host count are jax's own.
    """
    augment = augment or none()
    batches = Batches(
        source,
        batch,
        seed,
        augment,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        start=start,
        workers=workers,
        prefetch=prefetch,
        fetch=not resident,
    )
    replicated = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())
    table = on_device(source, replicated) if resident else None
    ready = partial(ingest, augment, high=tuple(controls_high), low=tuple(controls_low))
    return Feed(ToDevice(batches, sharding), ready, table)


def ingest(
    augment: Augment, raw: Raw, table: Raw | None = None, high: tuple[str, ...] = (), low: tuple[str, ...] = ()
) -> Batch:
    """Images [b, h, w, c] in [-1, 1], augmented as their controls say, and the conditions of a raw batch. Pure.

    Latents and embedded captions are as stored, but float32.

    For use in jit, or in NumPy on arrays of the host. ``high`` and ``low`` name what was recorded of the images that
    becomes ``controls_high`` and ``controls_low``, float32 [b, m] in the units of `CONTROL_UNITS`; None without names.
    Raises ValueError for a name that is not recorded.
    """
    records = raw if table is None else {name: values[raw["index"]] for name, values in table.items()}
    stored, controls = records["image"], raw["controls"]
    sizes = records.get("original", originals(stored.shape[1:], len(stored)))
    known = (augment, controls, stored.__array_namespace__().asarray(sizes), stored.shape[1:])
    embedded = {name: records[name].astype("float32") for name in ("text", "pooled") if name in records}
    cond = Cond(
        label=records.get("label"),
        text_mask=records.get("text_mask"),
        controls_high=conditions(*known, high),
        controls_low=conditions(*known, low),
        **embedded,
    )
    return Batch(to_float(augment.apply(stored, controls)), cond)


def on_device(source: Source, sharding: Sharding | None = None, chunk: int = 4096) -> Raw:
    """All records of a source as device arrays: ``image`` [n, h, w, c] as stored, ``label`` int32 [n] and what more."""
    cuts = range(0, len(source), chunk)
    parts = [source.fetch(np.arange(cut, min(cut + chunk, len(source)))) for cut in cuts]
    records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if sharding is None:
        return jax.device_put(records)
    return {k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__) for k, v in records.items()}


class ToDevice(Iterator[Raw]):
    """Batches on the device, of which ``depth`` are in flight: transfers overlap with the steps that compute.

    ``get_state`` speaks of the last batch that was handed out, not of those in flight. With a sharding, each host
    contributes its own part of a global array. The running numbers, 64 bits wide, stay on the host.
    """

    def __init__(self, batches: Batches, sharding: Sharding | None = None, depth: int = 2):
        if depth < 1:
            raise ValueError(f"depth={depth}: must be at least 1")
        self._batches, self._sharding, self._depth = batches, sharding, depth
        self._flight: deque[tuple[Raw, dict[str, Any]]] = deque()
        self._state = batches.get_state()

    def __next__(self) -> Raw:
        while len(self._flight) < self._depth:
            raw = self._put({k: v for k, v in next(self._batches).items() if k != "number"})
            self._flight.append((raw, self._batches.get_state()))
        raw, self._state = self._flight.popleft()
        return raw

    def get_state(self) -> dict[str, Any]:
        """As `Batches.get_state`, after the last batch that was handed out."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """As `Batches.set_state`; what is in flight is dropped."""
        self._batches.set_state(state)
        self._flight.clear()
        self._state = self._batches.get_state()

    def indices(self, step: int) -> np.ndarray:
        """As `Batches.indices`."""
        return self._batches.indices(step)

    def close(self) -> None:
        """Stop loading ahead."""
        self._flight.clear()
        self._batches.close()

    def _put(self, raw: Raw) -> Raw:
        if self._sharding is None:
            return jax.device_put(raw)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, self._sharding), raw)
