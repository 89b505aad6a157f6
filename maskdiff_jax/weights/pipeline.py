"""The folder that diffusers' ``DiTPipeline.from_pretrained`` loads.

model_index.json                   what there is, and the names of the classes; written last
transformer/                       the network (see `dit.to_diffusers`)
scheduler/scheduler_config.json    a DDIM sampler on the table of steps that the network was trained on
vae/                               what decodes its answers: diffusers' AutoencoderKL, copied, where there is one
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.train.files import read_json, write_json
from maskdiff_jax.weights.folders import STEMS, weight_files, write_folder

VAE = "AutoencoderKL"
PICTURES = (1, 3)  # channels of what no autoencoder has to decode
NULL_CLASS = 1000  # DiTPipeline's label of no class, whatever the network's is


def write_pipeline(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    schedule: Mapping[str, Any],
    vae_folder: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write the folder of a pipeline.

    Args:
      config: of the network, with its ``tensors``, from `dit.to_diffusers`.
      schedule: of `schedule.to_scheduler`.
      vae_folder: an AutoencoderKL as diffusers saves it, of which the configuration and safetensors are copied. Without
        it the pipeline is loaded with ``vae=…``.
      labels: the names of the first classes, by which ``get_label_ids`` finds them; of a name with commas each part.

    Raises ValueError, in one line, for more labels than classes and for a folder that is no such network or decodes
    other channels, before anything is written; OSError where a file cannot be read or written.
    """
    if len(labels) > config["num_embeds_ada_norm"]:
        raise ValueError(f"labels: {len(labels)} names for {config['num_embeds_ada_norm']} classes")
    parts = {} if vae_folder is None else _vae_files(vae_folder, config["in_channels"])
    write_folder(folder / "transformer", config, tensors, STEMS[0])
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    for name, path in parts.items():
        (folder / "vae").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "vae" / name)
    index: dict[str, Any] = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", config["_class_name"]],
        "scheduler": ["diffusers", schedule["_class_name"]],
        "vae": ["diffusers", VAE],
    }
    if labels:
        index["id2label"] = {str(number): name for number, name in enumerate(labels)}
    write_json(folder / "model_index.json", index)


def _vae_files(folder: Path, channels: int) -> dict[str, Path]:
    """The files of a decoder of ``channels``, by the names under which diffusers looks for them. Raises ValueError."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("_class_name") != VAE:
        raise ValueError(f"{folder} holds no {VAE} of diffusers")
    if (has := config.get("latent_channels", 4)) != channels:
        raise ValueError(f"{folder} decodes {has} channels, and the network answers with {channels}")
    return weight_files(folder, STEMS[:1]) | {"config.json": folder / "config.json"}
