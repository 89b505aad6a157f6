"""Data sets of which there is the description alone: for planning a run, and for networks that others have trained."""

from dataclasses import dataclass

import numpy as np

from maskdiff_jax import codec
from maskdiff_jax.data.latents import stored
from maskdiff_jax.data.source import DataError, Dataset, Latents


def shape_only(height: int, width: int, channels: int, classes: int = 0, images: int = 1) -> Dataset:
    """A data set of that many images [height, width, channels] in ``classes`` classes, which cannot be trained on."""
    source = Absent("shape_only", images)
    return Dataset(f"{height}x{width}x{channels}", (height, width, channels), classes, source, source)


def latents_only(
    height: int,
    width: int,
    channels: int,
    classes: int = 0,
    vae: str = "",
    scaling: float = 1.0,
    shift: float = 0.0,
    factor: int = 8,
    colours: int = 3,
    tile: int = 0,
) -> Dataset:
    """Latents [height, width, channels] in ``classes`` classes, which cannot be trained on.

    vae: the folder of the autoencoder that makes pictures of them, with its ``scaling``, ``shift``, ``factor`` of the
        sides and ``colours`` of a picture; without it nothing is drawn.
    tile: as in `latents`.
    """
    source = Absent("latents_only", 1)
    image_shape = (height * factor, width * factor, colours)
    kind = Latents(codec.latents(scaling, shift), stored(image_shape, 0.0), image_shape, vae, tile)
    name, shape = f"{height}x{width}x{channels}_latents", (height, width, 2 * channels)
    return Dataset(name, shape, classes, source, source, dtype="float16", latents=kind)


@dataclass(frozen=True)
class Absent:
    """The source of a data set ``name`` that has no records."""

    name: str
    images: int
    fingerprint: str = ""

    def __len__(self) -> int:
        return self.images

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        raise DataError(f"{self.name} is a description, without images: name a data set to train on")
