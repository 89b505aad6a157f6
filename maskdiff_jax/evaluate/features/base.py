"""What features are: numbers that say what an image shows, on which metrics are computed.

A kind of features is a factory ``FEATURES[name](**options) -> Make``, which checks its options, and
``Make(given) -> Features`` for images of one shape.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax.types import Array, Params

Labelled = tuple[np.ndarray, np.ndarray | None]  # uint8 images [n, h, w, c], labels int32 [n] or None
Arrays = dict[str, np.ndarray]


class Given(NamedTuple):
    """What features are made for.

    ``shape`` (h, w, c) of the images. ``train`` and ``heldout`` read real ones, for features that learn from them.
    ``place`` puts a batch of images on the devices, ``collect`` fetches an array from them, as for
    `maskdiff_jax.evaluate.sampling.make_generate`; batches are rounded up to a multiple of ``devices``. ``cache``: a
    folder where what was learned may be kept.
    """

    shape: tuple[int, int, int]
    train: Callable[[], Labelled] | None = None
    heldout: Callable[[], Labelled] | None = None
    place: Callable[[Any], Any] = lambda tree: tree
    collect: Callable[[Any], np.ndarray] = np.asarray
    cache: Path | None = None
    devices: int = 1


class Features(NamedTuple):
    """``extract(images, progress=None) -> {"pool": [n, dims], ...}``, float32, from images uint8 [n, h, w, c].

    Row i depends on image i alone (but for rounding). ``progress(done)`` is called after each batch. ``extract`` raises
    ValueError for another dtype or shape and where there are no images. ``batch``: how many images are on the devices
    at a time. ``about``: what the features are, for a report: JSON data. ``identity`` differs where the rows do, for
    what is kept of them.
    """

    name: str
    dims: int
    extract: Callable[..., Arrays]
    batch: int = 256
    about: dict[str, Any] = {}  # noqa: RUF012  (never mutated)
    identity: str = ""


Make = Callable[[Given], Features]


def stream(
    features: Features, batches: Iterable[np.ndarray], progress: Callable[[int], None] | None = None
) -> Iterator[Arrays]:
    """The features of images that come in batches uint8 [b, h, w, c], of any sizes, as `Features.extract` has them.

    One dict for every ``features.batch`` images, whatever the batches, and the rest: no more are in memory than these
    and a batch. ``progress(done)`` counts images from the start.
    """
    done = 0
    for images in recut(batches, features.batch):
        yield features.extract(images)
        done += len(images)
        if progress:
            progress(done)


def recut(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in batches of ``size``, the last of which may be smaller."""
    rest: np.ndarray | None = None
    for batch in batches:
        rest = batch if rest is None or not len(rest) else np.concatenate([rest, batch])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        yield rest


def make_extract(
    apply: Callable[[Params, Array], dict[str, Array]], params: Params, given: Given, batch: int
) -> Callable[..., Arrays]:
    """The `Features.extract` of ``apply(params, images [batch, h, w, c] uint8) -> {name: [batch, ...]}``.

    The last batch is filled up and cut: one compilation serves.
    """
    compiled = jax.jit(apply)
    batch = -(-batch // given.devices) * given.devices

    def extract(images: np.ndarray, progress: Callable[[int], None] | None = None) -> Arrays:
        check_images(images, given.shape)
        parts = []
        for start in range(0, len(images), batch):
            ids = np.arange(start, start + batch) % len(images)  # wraps around in the last batch
            found = compiled(params, given.place(images[ids]))
            parts.append({name: given.collect(array) for name, array in found.items()})
            if progress:
                progress(min(start + batch, len(images)))
        return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}

    return extract


def check_images(images: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless ``images`` are uint8 [n, *shape] with n at least 1."""
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(
            f"features are of uint8 images [n, {', '.join(map(str, shape))}], n at least 1, "
            f"got {images.dtype} {list(images.shape)}"
        )


def check_batch(batch: int) -> int:
    """``batch`` itself. Raises ValueError where it is not positive."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    return batch
