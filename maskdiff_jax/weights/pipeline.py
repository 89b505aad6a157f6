"""The folder that diffusers' ``DiTPipeline.from_pretrained`` loads.

model_index.json                   what there is, and the names of the classes; written last
transformer/                       the network (see `dit.to_diffusers`)
scheduler/scheduler_config.json    a DDIM sampler on the table of steps that the network was trained on
vae/                               what decodes its answers: diffusers' AutoencoderKL, copied, where there is one
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.train.files import read_json, write_json
from maskdiff_jax.weights.folders import STEMS, write_folder

VAE = "AutoencoderKL"
PREDICTIONS = {"x": "sample", "eps": "epsilon", "v": "v_prediction"}  # ours -> the scheduler's
NULL_CLASS = 1000  # DiTPipeline's label of no class, whatever the network's is


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> dict[str, Any]:
    """The scheduler's table of the process 'ddpm_linear'."""
    return {"num_train_timesteps": steps, "beta_schedule": "linear", "beta_start": beta_min, "beta_end": beta_max}


def cosine(steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> dict[str, Any]:
    """The scheduler's table of the process 'ddpm_cosine'. Raises ValueError for other constants than its defaults."""
    if (s, beta_max) != (0.008, 0.999):
        raise ValueError(f"ddpm_cosine: diffusers' schedulers have s=0.008 and beta_max=0.999, not {s} and {beta_max}")
    return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}


TABLES: dict[str, Callable[..., dict[str, Any]]] = {"ddpm_linear": linear, "ddpm_cosine": cosine}


def scheduler(process: str, options: Mapping[str, Any], prediction: str = "eps", clip: bool = False) -> dict[str, Any]:
    """The configuration of diffusers' DDIM sampler on our table of steps.

    Args:
      process: 'ddpm_linear' or 'ddpm_cosine', with its ``options``.
      prediction: what the network predicts, 'eps', 'x' or 'v'.
      clip: hold the denoised image in [-1, 1].

    Its steps are those of our ``ddim`` at the spacing ``uniform``: the first is the last entry of the table, and with a
    number of steps that divides the table each goes on where the one before has ended. A learned variance is not in
    it: the pipeline drops that half of the network's answer. Raises ValueError, in one line, for other choices.
    """
    for name, value, known in (("process", process, TABLES), ("prediction", prediction, PREDICTIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} cannot be exported: diffusers' scheduler has {', '.join(known)}")
    return {
        "_class_name": "DDIMScheduler",
        **TABLES[process](**options),
        "prediction_type": PREDICTIONS[prediction],
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


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
      schedule: of `scheduler`.
      vae_folder: an AutoencoderKL as diffusers saves it, of which the configuration and safetensors are copied. Without
        it the pipeline is loaded with ``vae=…``.
      labels: the names of the first classes, by which ``get_label_ids`` finds them; of a name with commas each part.

    Raises ValueError, in one line, for more labels than classes and for a folder that is no such network or decodes
    other channels, before anything is written; OSError where a file cannot be read or written.
    """
    if len(labels) > config["num_embeds_ada_norm"]:
        raise ValueError(f"labels: {len(labels)} names for {config['num_embeds_ada_norm']} classes")
    parts = [] if vae_folder is None else _vae_files(vae_folder, config["in_channels"])
    write_folder(folder / "transformer", config, tensors, STEMS[0])
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    for path in parts:
        (folder / "vae").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "vae" / path.name)
    index: dict[str, Any] = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", config["_class_name"]],
        "scheduler": ["diffusers", schedule["_class_name"]],
        "vae": ["diffusers", VAE],
    }
    if labels:
        index["id2label"] = {str(number): name for number, name in enumerate(labels)}
    write_json(folder / "model_index.json", index)


def _vae_files(folder: Path, channels: int) -> list[Path]:
    """The files of a decoder of ``channels``. Raises ValueError, in one line."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("_class_name") != VAE:
        raise ValueError(f"{folder} holds no {VAE} of diffusers")
    if (has := config.get("latent_channels", 4)) != channels:
        raise ValueError(f"{folder} decodes {has} channels, and the network answers with {channels}")
    weights = [path for path in sorted(folder.iterdir()) if path.name.startswith(f"{STEMS[0]}")]
    weights = [path for path in weights if path.name.endswith((".safetensors", ".safetensors.index.json"))]
    if not weights:
        raise ValueError(f"{folder} holds no {STEMS[0]}.safetensors")
    return [*weights, folder / "config.json"]
