"""Files that ``--mode=export`` has written as safetensors."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from maskdiff_jax.config import default_config
from maskdiff_jax.parts import complete
from maskdiff_jax.sources.base import Network
from maskdiff_jax.train.digest import nested
from maskdiff_jax.weights.files import as_float32
from maskdiff_jax.weights.folders import read_metadata, read_tensors

NAME = "maskdiff_jax"  # of the format, in the header
FILE = "model.safetensors"


def holds(path: Path) -> bool:
    """A folder with the file, or such a file of any name. Raises ValueError for one that is no safetensors file."""
    if path.is_file() and path.suffix == ".safetensors":
        return read_metadata(path).get("format") == NAME
    return (path / FILE).is_file()


def read(path: Path, vae: str = "") -> Network:
    """What a file of `export`, or the folder with it, holds.

    Keys that there were not when it was written have today's default. Data that are no latents are described alone,
    with `shape_only`: the network can be used where they are not. Raises ValueError, in one line, for another file;
    OSError where it cannot be read.
    """
    path = path / FILE if path.is_dir() else path
    metadata = read_metadata(path)
    if metadata.get("format") != NAME or "config" not in metadata:
        raise ValueError(f"{path} is not a file of weights that maskdiff_jax has exported")
    try:
        config = complete(ConfigDict(dict(json.loads(metadata["config"]))), default_config()).to_dict()
        config |= {"data": json.loads(metadata["data"]) | ({"vae": vae} if vae else {})}
        step = int(metadata["step"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: its config cannot be read: {error}") from error
    params = nested({name: as_float32(name, array) for name, array in read_tensors(path).items()})
    return Network(config, params, step)
