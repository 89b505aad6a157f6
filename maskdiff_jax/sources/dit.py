"""A DiT of others: a network or a pipeline of diffusers in its folder, and a checkpoint of the authors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from maskdiff_jax.config import default_config
from maskdiff_jax.models.autoencoder import autoencoder_kl
from maskdiff_jax.models.sizes import cond_shape
from maskdiff_jax.sources.base import Network
from maskdiff_jax.types import Params
from maskdiff_jax.weights.dit import Facts, from_diffusers, from_published
from maskdiff_jax.weights.folders import read_folder, read_object, read_tensors
from maskdiff_jax.weights.pipeline import PICTURES
from maskdiff_jax.weights.schedule import Schedule, from_scheduler
from maskdiff_jax.weights.torch_files import SUFFIXES, read_file

T = TypeVar("T")

INDEX = "model_index.json"
PIPELINE = "DiTPipeline"
STEPS = 50  # of sampling, as that pipeline has by default


def holds_pipeline(path: Path) -> bool:
    return (path / INDEX).is_file()


def read_pipeline(path: Path, vae: str = "") -> Network:
    """The folder that ``DiTPipeline.save_pretrained`` writes: its network, its scheduler's table and its decoder."""
    if (name := read_object(path / INDEX).get("_class_name")) != PIPELINE:
        raise ValueError(f"{path} holds a {name}, and of diffusers' pipelines only {PIPELINE} is read")
    file = path / "scheduler" / "scheduler_config.json"
    schedule = _naming(file, from_scheduler, read_object(file))
    own = str(path / "vae") if (path / "vae").is_dir() else ""
    folder = path / "transformer"
    return _network(path, *_naming(folder, from_diffusers, *read_folder(folder)), vae or own, schedule)


def holds_network(path: Path) -> bool:
    """Its config.json names a class, which that of a run does not."""
    return (path / "config.json").is_file() and "_class_name" in read_object(path / "config.json")


def read_network(path: Path, vae: str = "") -> Network:
    """The folder of a ``DiTTransformer2DModel``, trained on the authors' table."""
    return _network(path, *_naming(path, from_diffusers, *read_folder(path)), vae)


def read_published(path: Path, vae: str = "") -> Network:
    """A checkpoint of the authors, as they publish it (.pt) or as safetensors, trained on their table."""
    tensors = read_file(path) if path.suffix in SUFFIXES else read_tensors(path)
    return _network(path, *_naming(path, from_published, tensors), vae)


def _network(path: Path, facts: Facts, params: Params, vae: str, schedule: Schedule | None = None) -> Network:
    """With a config that draws as DiTPipeline does, but for the guidance, which there is none of by default.

    Without ``schedule`` the table is that of the paper: 1000 steps of linear betas, the noise predicted.
    """
    data = _data(facts, vae)
    pictures = data["name"].endswith(":shape_only")
    schedule = schedule or Schedule({"name": "ddpm_linear"}, {"name": "eps"}, {"name": "ddim"}, clip=pictures)
    config = default_config()
    config.name = path.resolve().name
    config.data = data
    config.process, config.prediction = schedule.process, schedule.prediction
    config.inputs = {"name": "discrete"}
    config.model = {"name": "dit", **facts.options}
    config.sample.sampler, config.sample.clip = schedule.sampler, schedule.clip
    config.sample.steps = min(STEPS, schedule.process.get("steps", STEPS))
    return Network(config.to_dict(), params, None)


def _data(facts: Facts, vae: str) -> dict[str, Any]:
    """What the network was trained on, as far as it is known: pictures, or the latents of an autoencoder."""
    height, width, channels = facts.image_shape
    shape = {"height": height, "width": width, "channels": channels, "classes": cond_shape(facts.classes).classes}
    if not vae and channels in PICTURES:
        return {"name": "maskdiff_jax.data.described:shape_only"} | shape
    latents = {"name": "maskdiff_jax.data.described:latents_only"} | shape
    return latents | (_decoder(Path(vae).expanduser()) if vae else {})


def _decoder(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    vae = _naming(file, autoencoder_kl, read_object(file))
    sizes = {"factor": vae.factor, "colours": vae.config["out_channels"]}
    return {"vae": str(folder), "scaling": vae.scaling, "shift": vae.shift, **sizes}


def _naming(path: Path, function: Callable[..., T], *arguments: Mapping[str, Any]) -> T:
    """``function(*arguments)``, with the file or folder that is at fault named in its ValueError."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
