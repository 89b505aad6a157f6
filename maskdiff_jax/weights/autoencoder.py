"""The autoencoder of latent diffusion from its standard folder, and into one: diffusers' ``AutoencoderKL``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskdiff_jax.models.autoencoder import Autoencoder, autoencoder_kl
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.types import Params
from maskdiff_jax.weights.files import check_shapes
from maskdiff_jax.weights.folders import read_folder, write_folder
from maskdiff_jax.weights.torch_names import from_torch, to_torch

# How the first folders name the parts of the attention.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(rf"(?<=\.attentions\.0\.)({'|'.join(_OLD_NAMES)})(?=\.(?:weight|bias)$)")
_PROJECTION = re.compile(r"\.attentions\.0\.to_(?:q|k|v|out\.0)\.weight$")


def load_autoencoder(folder: str | Path, dtype: str = "float32") -> tuple[Autoencoder, Params]:
    """The autoencoder and its parameters, float32 NumPy arrays, from ``config.json`` and safetensors in a folder.

    In a folder of a whole pipeline it is the one called "vae". ``dtype`` is that of the arithmetic. The attention may
    have its old names (query, key, value, proj_attn) and its kernels the axes of 1×1 convolutions.

    Raises ValueError, in one line, for a configuration of another network, missing weights, pickles, and names and
    shapes that are not the network's; OSError for what cannot be read.
    """
    folder = Path(folder)
    config, tensors = read_folder(folder)
    try:
        autoencoder = autoencoder_kl(config, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    shapes = jax.eval_shape(autoencoder.init, jax.random.key(0))
    source = f"the weights in {folder}"
    return autoencoder, from_torch(modern(tensors, source), shapes, rename, source)


def save_autoencoder(folder: str | Path, autoencoder: Autoencoder, params: Params) -> None:
    """Write the folder that `load_autoencoder` and diffusers read; makes it where it is missing.

    What was loaded in float32 comes out bit for bit, under today's names. Raises ValueError, in one line, where
    ``params`` are not the autoencoder's.
    """
    shapes = flatten(jax.eval_shape(autoencoder.init, jax.random.key(0)))
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    check_shapes(arrays, {path: leaf.shape for path, leaf in shapes.items()}, "params")
    config = {"_class_name": "AutoencoderKL"} | autoencoder.config
    write_folder(Path(folder), config, to_torch(params, rename), "diffusion_pytorch_model")


def rename(path: str) -> str:
    """ "down_blocks_0/resnets_1" -> "down_blocks.0.resnets.1"."""
    return re.sub(r"_(\d+)(?=/|$)", r".\1", path).replace("/", ".")


def modern(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """The tensors under today's names, the projections of the attention with two axes.

    Raises ValueError, which calls them ``source``, where one is there under both names.
    """
    renamed = {_OLD.sub(lambda match: _OLD_NAMES[match[0]], name): array for name, array in tensors.items()}
    if len(renamed) < len(tensors):
        raise ValueError(f"{source} have an old name ({', '.join(_OLD_NAMES)}) of the attention beside its new one")
    flat = {name: array for name, array in renamed.items() if _PROJECTION.search(name) and array.shape[2:] == (1, 1)}
    return renamed | {name: array[:, :, 0, 0] for name, array in flat.items()}
