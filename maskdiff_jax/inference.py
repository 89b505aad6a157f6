"""Using a trained run: read it, draw samples, measure its losses."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from maskdiff_jax.build import Experiment, make_sample, mesh_for, strength
from maskdiff_jax.captions import prompts
from maskdiff_jax.config import default_config
from maskdiff_jax.data import Source, conditions, embeddings, for_heldout, held_out, originals, to_uint8
from maskdiff_jax.evaluate.grid import image_grid, save_picture
from maskdiff_jax.evaluate.heldout import make_heldout
from maskdiff_jax.evaluate.likelihood import mean_bits_per_dim
from maskdiff_jax.evaluate.sampling import balanced_labels, make_generate
from maskdiff_jax.parts import ConfigError, complete, flatten
from maskdiff_jax.pictures import required
from maskdiff_jax.stages import Stage, build_stages, same_run, stage_at
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import read_json, write_atomically
from maskdiff_jax.train.parallel import collect, place
from maskdiff_jax.train.progress import say
from maskdiff_jax.train.state import abstract_state
from maskdiff_jax.types import Batch, Cond, Params


class Trained(NamedTuple):
    """The averaged parameters of a run (its first EMA), and how far it had come."""

    params: Params
    step: int
    seconds: float


def sample(
    config: ConfigDict,
    workdir: Path,
    *,
    num: int | None = None,
    labels: list[str] | None = None,
    captions: Sequence[str] = (),
    seed: int = 0,
    out: str | None = None,
    controls: Mapping[str, float] | None = None,
    checkpoint: str = "newest",
    steps: Sequence[int] = (),
    guidance: Sequence[float] = (),
    sampler: str | None = None,
) -> Path:
    """Draw ``num`` images with a checkpoint of ``workdir`` (see `load`); write a PNG grid and an .npz beside it.

    The .npz holds ``images`` uint8 [n, h, w, c], ``labels`` int32 [n] where there are any, and ``settings`` as JSON.
    Class labels default to 0, 1, 2, … in turn, ``captions`` to those of held-out images; ``controls`` are those of
    `condition`. ``steps`` and ``guidance`` hold at most one. Returns the PNG's path. Raises ConfigError for labels,
    captions or controls that the model does not know, or an ``out`` that exists.
    """
    if len(steps) > 1 or len(guidance) > 1:
        raise ConfigError("several --steps or --guidance go with --mode=evaluate --metrics=…")
    config.sample = with_settings(config.sample, [*steps, None][0], [*guidance, None][0], sampler)
    stages = build_stages(config)
    num = num or config.sample.num
    chosen = labels_for(stages[-1].experiment, labels, num)
    png = _free_path(workdir, out)
    stage, trained = load(stages, workdir, checkpoint)
    experiment = stage.experiment
    cond = condition(experiment, chosen, num, controls)
    if captions:
        cond = cond._replace(**prompts(experiment.dataset, config.encode.text, captions, num))
    images = generator(experiment, config.sample, progress="sampling")(trained.params, num, cond, seed)
    save_grid(png, experiment, images, chosen)
    about = {"step": trained.step, "seed": seed, **flatten(config.sample)}
    about |= {"captions": list(captions)} if captions else {}
    levels = to_uint8(images)
    arrays: dict[str, Any] = {"images": levels, "settings": np.array(json.dumps(about))}
    if chosen is not None:
        arrays["labels"] = chosen
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(png.with_suffix(".npz"), buffer.getvalue())
    say(f"{num} samples of step {trained.step}: {png} and {png.with_suffix('.npz').name}")
    return png


def read_config(workdir: Path) -> ConfigDict:
    """The config that ``workdir`` was trained with. Raises ConfigError where there is none."""
    path = workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{path} not found: train first, or name another --workdir")
    try:
        return complete(ConfigDict(read_json(path)), default_config())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def with_settings(section: ConfigDict, steps: int | None, guidance: float | None, sampler: str | None) -> ConfigDict:
    """A copy of a section like ``config.sample`` with what of the settings is given."""
    section = section.copy_and_resolve_references()
    if steps is not None:
        section.steps = steps
    if guidance is not None:
        with section.ignore_type():
            section.guidance[strength(section.guidance)] = guidance
    if sampler not in (None, section.sampler.name):
        section.sampler = ConfigDict({"name": sampler})
    return section


def load(stages: tuple[Stage, ...], workdir: Path, checkpoint: str = "newest") -> tuple[Stage, Trained]:
    """A checkpoint of a run and the stage that it is of.

    ``checkpoint``: newest, the newest that is sound; best, that of the least ``log.best_metric``; or the number of a
    step. Raises CheckpointError where there is no such checkpoint, or it is of another run than ``config.json`` says,
    and ConfigError where there is none at all.
    """
    mesh = mesh_for(stages[0].experiment.config)

    def wanted(step: int) -> Any:
        experiment = stage_at(stages, step).experiment
        average = f".ema['{float(experiment.config.ema[0])!r}']"
        return jax.tree_util.tree_map_with_path(  # the optimiser's moments stay on the disk
            lambda path, leaf: leaf if average in jax.tree_util.keystr(path) else ...,
            abstract_state(experiment.model, experiment.optimizer, mesh),
        )

    with Checkpoints(workdir / "checkpoints", read_only=True, warn=say) as checkpoints:
        restored = checkpoints.restore_named(checkpoint, wanted, same_run(read_config(workdir), checkpoints.directory))
    if restored is None:
        raise ConfigError(f"no checkpoint in {workdir / 'checkpoints'}: train first, or name another --workdir")
    stage = stage_at(stages, restored.step)
    average = get_ema(restored.state.opt_state, stage.experiment.config.ema[0])
    return stage, Trained(average, restored.step, restored.meta["seconds"])


def generator(
    experiment: Experiment, settings: ConfigDict, batch_size: int | None = None, progress: str = ""
) -> Callable[..., np.ndarray]:
    """``generate(params, count, cond, seed=0, first=0)`` -> images [count, h, w, c] in [-1, 1], see `make_generate`.

    One compilation, all devices; latents are decoded by another. Raises ConfigError for latents that nothing decodes.
    """
    mesh, pictures = mesh_for(experiment.config), required(experiment.pictures)
    size = -(-(batch_size or experiment.config.evaluate.batch) // mesh.size) * mesh.size
    generate = make_generate(
        make_sample(experiment, settings),
        batch_size=size,
        place=partial(place, mesh),
        collect=lambda samples: pictures(collect(samples)),
    )

    def with_bar(params: Params, count: int, cond: Cond, seed: int = 0, first: int = 0) -> np.ndarray:
        with tqdm(total=count, desc=progress, unit="img", disable=not progress or None, leave=False, ncols=79) as bar:
            return generate(params, count, cond, seed, lambda done: bar.update(done - bar.n), first)

    return with_bar


def heldout_loss(experiment: Experiment) -> Callable[[Params], dict[str, float]]:
    """``measure(params)``: the dense loss on the first ``evaluate.images`` held-out images, also by noise level."""
    settings, mesh = experiment.config.evaluate, mesh_for(experiment.config)
    source = experiment.dataset.heldout
    data = read(experiment, source, min(settings.images, len(source)))
    images = data.image
    size = -(-min(settings.batch, len(images)) // mesh.size) * mesh.size
    measure = make_heldout(
        experiment.heldout,
        experiment.process,
        levels=settings.levels,
        batch_size=size,
        times=experiment.heldout_times,
        place=partial(place, mesh),
        collect=collect,
    )
    return lambda params: measure(params, data)


def bits_per_dim(experiment: Experiment, params: Params) -> float | None:
    """The variational bound on the first ``evaluate.bits_per_dim.images`` held-out images; None where that is 0."""
    if experiment.bits_per_dim is None:
        return None
    source, mesh = experiment.dataset.heldout, mesh_for(experiment.config)
    data = read(experiment, source, min(experiment.config.evaluate.bits_per_dim.images, len(source)))
    size = -(-min(experiment.config.evaluate.batch, len(data.image)) // mesh.size) * mesh.size
    measure: Any = experiment.bits_per_dim
    return mean_bits_per_dim(measure, params, data, batch_size=size, place=partial(place, mesh), collect=collect)


def read(experiment: Experiment, source: Source, count: int | None = None) -> Batch:
    """The first ``count`` images of a source, or all, as they are measured, with the conditions of the network."""
    condition = experiment.config.condition
    indices = np.arange(len(source) if count is None else count)
    high, low = tuple(condition.controls_high), tuple(condition.controls_low)
    data = held_out(source, experiment.augment, indices=indices, high=high, low=low)
    return data if condition.label else data._replace(cond=data.cond._replace(label=None))


def condition(
    experiment: Experiment, labels: np.ndarray | None, count: int, chosen: Mapping[str, float] | None = None
) -> Cond:
    """The conditions of ``count`` samples: these class labels [count] or none, and the controls of measured images.

    Where captions are a condition, they are those of the held-out images, in turn; in half precision, as stored.
    ``chosen`` controls have one value, in the units in which they are recorded, in place of what the data have.
    Raises ConfigError for one that is not among the conditions of the network.
    """
    names = experiment.config.condition
    high, low = tuple(names.controls_high), tuple(names.controls_low)
    for name in chosen or {}:
        if name not in high + low:
            known = ", ".join(high + low) or "none"
            raise ConfigError(f"--controls: {name!r} is no condition of this network; there are {known}")
    still, shape = for_heldout(experiment.augment), experiment.dataset.shape
    drawn = still.controls(0, np.arange(count), shape)
    drawn |= {name: np.full(count, value, np.float32) for name, value in (chosen or {}).items()}
    given = partial(conditions, still, drawn, originals(experiment.dataset.image_shape, count), shape)
    label = None if labels is None else jnp.asarray(labels)
    cond = Cond(label=label, controls_high=given(high), controls_low=given(low))
    return cond._replace(**heldout_captions(experiment, count))


def heldout_captions(experiment: Experiment, count: int) -> dict[str, np.ndarray]:
    """The embedded captions of the held-out images, in turn, until they are ``count``; none where there are none."""
    names, source = embeddings(experiment.dataset.text), experiment.dataset.heldout
    if not names:
        return {}
    few = source.fetch(np.arange(min(count, len(source))))
    return {name: few[name][np.arange(count) % len(few[name])] for name in names}


def labels_for(experiment: Experiment, chosen: list[str] | None, count: int) -> np.ndarray | None:
    """Class labels int32 [count]: those ``chosen``, in turn, or all classes in turn; None for a model without.

    Raises ConfigError for what is not the number of a class, and where a model without classes is given any.
    """
    classes = experiment.dataset.classes if experiment.config.condition.label else 0
    if not classes:
        if chosen:
            raise ConfigError("--labels: this model is unconditional")
        return None
    if not chosen:
        return balanced_labels(count, classes)
    if bad := [label for label in chosen if not label.strip().isdigit() or int(label) >= classes]:
        raise ConfigError(
            f"--labels: {bad[0]!r} is not a class of {experiment.dataset.name}: choose from 0 to {classes - 1}"
        )
    return np.resize(np.array(chosen, np.int32), count)


def _free_path(workdir: Path, out: str | None) -> Path:
    if out is not None:
        png = Path(out).with_suffix(".png")
        if png.exists() or png.with_suffix(".npz").exists():
            raise ConfigError(f"--out: {png} or its .npz exists: name another file")
        return png
    numbers = (i for i in range(1, 10**6))
    return next(p for i in numbers if not (p := workdir / "samples" / f"sample_{i:03d}.png").exists())


def save_grid(path: Path, experiment: Experiment, images: np.ndarray, labels: np.ndarray | None) -> None:
    """Write a picture of samples: a grid with a column for each class where they are few, or the data set's own way."""
    columns = experiment.dataset.classes if labels is not None and experiment.dataset.classes <= 12 else None
    save_picture(path, picture(experiment, images, columns))


def picture(experiment: Experiment, images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Samples [n, h, w, c] as one picture, uint8 [H, W, 3]."""
    draw = experiment.dataset.draw
    return image_grid(images, columns) if draw is None else draw(images)
