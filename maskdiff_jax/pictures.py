"""From samples to images: nothing is to be done, but with latents, which an autoencoder decodes.

It stands outside of the sampler's program, its parameters as an argument of a program of its own: closed over, they
would be baked into it.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax.data import Dataset
from maskdiff_jax.models.autoencoder import autoencoder_kl
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.parallel import collect, make_mesh, place, replicated
from maskdiff_jax.types import Array
from maskdiff_jax.weights.autoencoder import load_autoencoder

# Samples [n, h, w, c] -> images [n, H, W, C] in [-1, 1], both in the host's memory. All processes call it together.
Pictures = Callable[[np.ndarray], np.ndarray]

AT_ONCE = 8  # images that a device decodes together
OVERLAP = 0.25  # of neighbouring tiles, in sides of them


def make_pictures(dataset: Dataset) -> Pictures | None:
    """What makes images of samples of this data set; None for latents whose autoencoder is not known.

    The weights are read when the first image is made. Raises ConfigError for an autoencoder of other latents.
    """
    latents = dataset.latents
    if latents is None:
        return lambda samples: samples
    if not latents.vae:
        return None
    check_vae(latents.vae, latents.codec.shape(latents.augment.shape(dataset.shape)), latents.image_shape)
    return lambda samples: decoded(samples, latents.vae, latents.tile)


def check_vae(folder: str, shape: tuple[int, int, int], image_shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless the autoencoder makes images of ``image_shape`` (h, w, c) of latents of ``shape``."""
    try:
        vae = autoencoder_kl(read_json(Path(folder) / "config.json"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.data.vae: {error}") from error
    h, w, c = shape
    makes = (h * vae.factor, w * vae.factor, vae.config["out_channels"])
    if c != vae.channels or makes != image_shape:
        theirs = f"{list(makes)} of latents [{h}, {w}, {vae.channels}]"
        raise ConfigError(
            f"config.data.vae: {folder} makes images {theirs}; these are {list(image_shape)} of {list(shape)}"
        )


def decoded(samples: np.ndarray, folder: str, tile: int) -> np.ndarray:
    """The images [n, H, W, C] of latents [n, h, w, c], clipped to [-1, 1]: a few at a time, in float32."""
    decode, devices = _decoder(folder, tile)
    size = AT_ONCE * devices
    parts = []
    for start in range(0, len(samples), size):
        few = samples[np.arange(start, start + size) % len(samples)]  # wraps around in the last part
        parts.append(decode(few))
    return np.clip(np.concatenate(parts)[: len(samples)], -1, 1)


@cache
def _decoder(folder: str, tile: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """What decodes, and the number of devices that share the images."""
    try:
        autoencoder, params = load_autoencoder(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.data.vae: {error}") from error
    mesh = make_mesh()
    params = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, replicated(mesh), x.__getitem__), params)

    @jax.jit
    def decode(params, z: Array) -> Array:
        if tile:
            return autoencoder.decode_tiled(params, z, tile, round(OVERLAP * tile))
        return autoencoder.decode(params, z)

    return lambda z: collect(decode(params, place(mesh, z))), mesh.size


def check_latents(config: ConfigDict) -> None:
    """Raise ConfigError for what only images can be given, or asked."""
    for key, plain in {"codec": "identity", "augment": "none"}.items():
        if config[key].name != plain:
            raise ConfigError(
                f"config.{key}: the data are latents, which have their own: leave it at {plain!r}, "
                f"not {config[key].name!r}"
            )
    if config.evaluate.bits_per_dim.images:
        raise ConfigError("config.evaluate.bits_per_dim: latents have no grey levels: set images=0")


def required(pictures: Pictures | None) -> Pictures:
    """Raises ConfigError where there are none."""
    if pictures is None:
        raise ConfigError(
            "config.data.vae: samples are latents; name the folder of the autoencoder that decodes them "
            "(in Python, load(…, vae=FOLDER))"
        )
    return pictures
