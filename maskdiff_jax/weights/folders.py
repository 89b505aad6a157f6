"""The standard folder of a published network: ``config.json`` and its weights as safetensors, in one file or more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from maskdiff_jax.train.files import read_json, write_atomically

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
STEMS = ("diffusion_pytorch_model", "model")  # as diffusers and as transformers name the weights


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors, by name and in their own dtype, of a folder.

    The weights are ``diffusion_pytorch_model.safetensors`` or ``model.safetensors``, or the several files that
    ``….safetensors.index.json`` names. Raises ValueError, in one line, where something is missing, broken, or a pickle
    (which can run code when it is read); OSError where it cannot be read.
    """
    config = read_object(folder / "config.json")
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            return config, _several(folder, index)
        if (path := folder / f"{stem}.safetensors").exists():
            return config, read_tensors(path)
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise ValueError(f"{folder} holds {pickles[0]}, a pickle, which is not read: save it as safetensors")
    raise ValueError(f"{folder} holds no weights: neither {' nor '.join(f'{stem}.safetensors' for stem in STEMS)}")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, in one line; OSError where it cannot be read."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not an object")
    return value


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, in their own dtype. Raises ValueError, in one line."""
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, which is not read: save it as safetensors")
    path.open("rb").close()  # an OSError that names it
    try:
        return safetensors.numpy.load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file. Raises ValueError, in one line."""
    path.open("rb").close()
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file in one stroke: the same tensors and metadata give the same bytes."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_atomically(path, _with_sorted_header(safetensors.numpy.save(ordered, dict(metadata or {}))))


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], stem: str) -> None:
    """Write ``config.json`` and ``<stem>.safetensors``, the configuration last: with it, the folder is complete."""
    write_tensors(folder / f"{stem}.safetensors", tensors, {"format": "pt"})  # which diffusers asks for
    write_atomically(folder / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _with_sorted_header(data: bytes) -> bytes:
    """The library writes the metadata in any order."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # which aligns the tensors, as the library does
    return len(header).to_bytes(8, "little") + header + data[start:]


def _several(folder: Path, index: Path) -> dict[str, np.ndarray]:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{index} has no weight_map")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(names.values())):
        if Path(file).name != file:
            raise ValueError(f"{index} names {file!r}, which is not a file of its folder")
        tensors |= read_tensors(folder / file)
    return tensors
