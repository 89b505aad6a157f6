"""The averaged weights of a run as files that others read, with a model card beside them.

safetensors    OUT/model.safetensors, which holds the config of the run too; `sources.exported` reads it
diffusers      a folder that diffusers' DiTPipeline loads, of a `dit` trained on a table of steps

Both have OUT/README.md, the card.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment
from maskdiff_jax.evaluate.report import validate
from maskdiff_jax.inference import load
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.parts import flatten as keys_of
from maskdiff_jax.sources.exported import FILE, NAME
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.digest import flatten, host_array, nested
from maskdiff_jax.train.files import plain, read_json, write_atomically
from maskdiff_jax.train.progress import say
from maskdiff_jax.types import Params
from maskdiff_jax.weights.card import Use, Weights, card, with_diffusers, with_this_library
from maskdiff_jax.weights.dit import Facts, to_diffusers
from maskdiff_jax.weights.folders import write_tensors
from maskdiff_jax.weights.pipeline import write_pipeline
from maskdiff_jax.weights.schedule import to_scheduler

OF_DIFFUSERS = {"model.name": "dit", "inputs.name": "discrete", "shift": 1.0, "codec.name": "identity"}


class Job(NamedTuple):
    """What is written where: the parameters as NumPy arrays, and the folder of a decoder or None."""

    folder: Path
    experiment: Experiment
    params: Params
    weights: Weights
    vae: Path | None


class Format(NamedTuple):
    """``write(job)`` says how its files are loaded; ``library`` is what loads them; ``vae``: it can hold a decoder."""

    write: Callable[[Job], Use]
    library: str
    vae: bool


def export(
    config: ConfigDict,
    workdir: Path,
    *,
    out: str | Path | None = None,
    format: str = "safetensors",
    checkpoint: str = "newest",
    vae: str | Path | None = None,
) -> Path:
    """Write the averaged parameters of a checkpoint of ``workdir`` (see `inference.load`) to a folder.

    Args:
      out: the folder; by default ``exported/FORMAT`` of the workdir.
      format: a member of `FORMATS`.
      vae: for diffusers, a folder with the AutoencoderKL that decodes the network's answers; it is copied.

    Returns the folder. Raises ConfigError, before anything is written, for a folder that is not empty, an unknown
    format, and a network or a process that the format cannot hold.
    """
    folder = workdir / "exported" / format if out is None else Path(out)
    if format not in FORMATS:
        raise ConfigError(f"--format: unknown {format!r}: choose from {', '.join(FORMATS)}")
    if vae is not None and not FORMATS[format].vae:
        raise ConfigError(f"--vae does not go with --format={format}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out: {folder} exists and is not an empty folder: name another")
    stage, trained = load(build_stages(config), workdir, checkpoint)
    experiment = stage.experiment
    params = nested({path: host_array(leaf) for path, leaf in flatten(trained.params).items()})
    weights = Weights(
        image_shape=experiment.codec.shape(experiment.image_shape),
        cond=experiment.cond,
        step=trained.step,
        decay=float(experiment.config.ema[0]),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
    )
    try:
        use = FORMATS[format].write(Job(folder, experiment, params, weights, None if vae is None else Path(vae)))
    except ValueError as error:
        raise ConfigError(f"--format={format}: {error}") from error
    text = card(plain(experiment.config.to_dict()), weights, _report(workdir), use, FORMATS[format].library)
    write_atomically(folder / "README.md", text.encode())
    say(f"step {trained.step}, average of decay {weights.decay:g}: {folder}")
    return folder


def to_safetensors(job: Job) -> Use:
    """One file: the parameters by their paths, and in its header the config of the stage that they are of."""
    config, dataset = plain(job.experiment.config.to_dict()), job.experiment.dataset
    height, width, channels = dataset.shape
    data = {"name": "maskdiff_jax.data.described:shape_only", "height": height, "width": width, "channels": channels}
    data = config["data"] if dataset.latents else data | {"classes": dataset.classes}
    metadata = {"format": NAME, "step": str(job.weights.step)}
    metadata |= {"config": json.dumps(config, sort_keys=True), "data": json.dumps(data, sort_keys=True)}
    write_tensors(job.folder / FILE, flatten(job.params), metadata)
    return with_this_library


def to_pipeline(job: Job) -> Use:
    """The folder of a pipeline of diffusers. Raises ValueError, in one line, for what it cannot hold."""
    config, dataset = job.experiment.config, job.experiment.dataset
    for path, must in OF_DIFFUSERS.items():
        if (value := keys_of(config)[path]) != must:
            raise ValueError(f"config.{path}={value!r} cannot be exported: a DiT of diffusers has {must!r}")
    options, process = config.model.to_dict(), config.process.to_dict()
    options.pop("name")
    facts = Facts(job.weights.image_shape, job.experiment.cond, options)
    schedule = to_scheduler(process.pop("name"), process, config.prediction.name, config.sample.clip)
    write_pipeline(job.folder, *to_diffusers(job.params, facts), schedule, job.vae, dataset.class_names)
    return partial(with_diffusers, has_vae=job.vae is not None)


FORMATS = {
    "safetensors": Format(to_safetensors, NAME, vae=False),
    "diffusers": Format(to_pipeline, "diffusers", vae=True),
}


def _report(workdir: Path) -> dict[str, Any] | None:
    """The run's report.json. One that cannot be read is left out, and said so."""
    path = workdir / "report.json"
    if not path.exists():
        return None
    try:
        report = read_json(path)
        validate(report)
        return report
    except ValueError as error:
        say(f"{path} is left out of the card: {error}")
        return None
