"""The records of encoded images: latents by the autoencoder, embedded captions, and what the images come with."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskdiff_jax.captions import Embedded
from maskdiff_jax.data import DataError, Dataset, Source, to_float
from maskdiff_jax.data.latents import SPLITS
from maskdiff_jax.models.autoencoder import Autoencoder
from maskdiff_jax.train.parallel import collect, place, replicated
from maskdiff_jax.types import Array, Params


class Shard(NamedTuple):
    """Images ``start`` to ``stop`` of a split, and the file of their records."""

    split: str
    file: str
    start: int
    stop: int


def shards_of(images: Dataset, size: int) -> list[Shard]:
    """The files of both splits, of ``size`` records each but for the last."""
    found = []
    for split in SPLITS:
        n = len(getattr(images, split))
        files = -(-n // size)
        found += [
            Shard(split, f"{split}-{i:05d}-of-{files:05d}.array_record", i * size, min((i + 1) * size, n))
            for i in range(files)
        ]
    return found


def make_records(
    images: Dataset, autoencoder: Autoencoder, params: Params, text: Embedded | None, mesh: Mesh, flip: bool, size: int
) -> Callable[[Shard], Iterator[dict[str, np.ndarray]]]:
    """``records(shard)``: the arrays of its records, ``size`` images at a time; one compilation serves.

    The next images are read while the devices encode.
    """
    whole = replicated(mesh)
    params = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, whole, x.__getitem__), params)

    @jax.jit
    def posterior(params: Params, pixels: Array) -> Array:
        x = to_float(pixels)
        views = [x, x[:, :, ::-1]] if flip else [x]
        parts = [moment for view in views for moment in autoencoder.encode(params, view)]
        return jnp.concatenate(parts, axis=-1).astype(jnp.float16)

    def records(shard: Shard) -> Iterator[dict[str, np.ndarray]]:
        source: Source = getattr(images, shard.split)
        first = 0 if shard.split == "train" else len(images.train)
        before: Callable[[], dict[str, np.ndarray]] | None = None
        for start in range(shard.start, shard.stop, size):
            count = min(size, shard.stop - start)
            indices = start + np.arange(size) % count  # filled up
            found = source.fetch(indices)
            latents = posterior(params, place(mesh, found.pop("image")))
            found |= {} if text is None else text.of(source, indices, first)
            if before is not None:
                yield before()
            before = partial(_collected, latents, found, count, f"{shard.split} image {start}")
        if before is not None:
            yield before()

    return records


def _collected(latents: Array, found: dict[str, np.ndarray], count: int, where: str) -> dict[str, np.ndarray]:
    records = {name: values[:count] for name, values in {"image": collect(latents), **found}.items()}
    for name, values in records.items():
        finite = np.isfinite(values).reshape(count, -1).all(axis=1)
        if not finite.all():
            raise DataError(f"{where} + {int(np.argmin(finite))}: its {name} is not finite in half precision")
    return records
