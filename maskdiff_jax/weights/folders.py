"""The standard folder of a published network: ``config.json`` and its weights as safetensors, in one file or more."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from maskdiff_jax.train.files import read_json, write_atomically

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
STEMS = ("diffusion_pytorch_model", "model")  # as diffusers and as transformers name the weights
VARIANTS = ("", ".fp16", ".bf16")  # of the files, by the number format, as both name them; the first that is there


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors, by name and in their own dtype, of a folder: see `weight_files`.

    Raises ValueError, in one line, where something is missing, broken, or a pickle (which can run code when it is
    read); OSError where it cannot be read.
    """
    config, tensors = read_object(folder / "config.json"), {}
    for path in weight_files(folder).values():
        tensors |= read_tensors(path) if path.suffix == ".safetensors" else {}
    return config, tensors


def weight_files(folder: Path, stems: Sequence[str] = STEMS) -> dict[str, Path]:
    """The files of the weights, by their names in a folder that has no variants of them.

    One is ``diffusion_pytorch_model.safetensors`` or ``model.safetensors``; several are those that
    ``….safetensors.index.json`` names, which is the first of them. Where neither is there, a variant in half precision
    is taken: ``….fp16.safetensors`` or ``….safetensors.index.fp16.json``, and likewise with bf16. Raises ValueError, in
    one line, where there is none of these, and for a broken index.
    """
    for variant, stem in itertools.product(VARIANTS, stems):
        if (index := folder / f"{stem}.safetensors.index{variant}.json").exists():
            return {f"{stem}.safetensors.index.json": index} | {name: folder / name for name in _indexed(index)}
        if (path := folder / f"{stem}{variant}.safetensors").exists():
            return {f"{stem}.safetensors": path}
    if pickles := sorted(path for path in folder.iterdir() if path.suffix in PICKLES):
        raise ValueError(f"{folder} holds {pickles[0].name}, a pickle, {_instead(pickles[0])}")
    raise ValueError(f"{folder} holds no {' or '.join(f'{stem}.safetensors' for stem in stems)}")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, in one line; OSError where it cannot be read."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not an object")
    return value


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, in their own dtype. Raises ValueError, in one line."""
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, {_instead(path)}")
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


def _indexed(index: Path) -> list[str]:
    """The files that an index names, all of its folder."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{index} has no weight_map")
    files = sorted(set(names.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{index} names {file!r}, which is not a safetensors file of its folder")
    return files


def _instead(path: Path) -> str:
    """What is said of a pickle: how it becomes safetensors without being run."""
    target = path.with_name(path.stem.removeprefix("pytorch_") + ".safetensors")
    return f"which is not read: python -m maskdiff_jax.weights.convert {path} {target}"
