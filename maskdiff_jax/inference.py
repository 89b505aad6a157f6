"""Using a trained run: draw samples, evaluate, report."""

import io
import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from maskdiff_jax.build import ConfigError, Experiment, abstract_batch, build, flatten, make_sample
from maskdiff_jax.data import Source, to_float, to_uint8
from maskdiff_jax.evaluate.grid import save_png
from maskdiff_jax.evaluate.heldout import level_edges, make_heldout
from maskdiff_jax.evaluate.likelihood import mean_bits_per_dim
from maskdiff_jax.evaluate.quality import METRICS, Labelled, quality
from maskdiff_jax.evaluate.report import format_table, make_report, save_report
from maskdiff_jax.evaluate.sampling import balanced_labels, make_generate
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import read_json, write_atomically
from maskdiff_jax.train.flops import training_flops
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.provenance import provenance
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
    seed: int = 0,
    out: str | None = None,
    **settings: Any,
) -> Path:
    """Draw ``num`` images with the newest checkpoint of ``workdir``; write a PNG grid and an .npz beside it.

    The .npz holds ``images`` uint8 [n, h, w, c], ``labels`` int32 [n] where there are any, and ``settings`` as JSON.
    Class labels default to 0, 1, 2, … in turn. ``settings``: steps, guidance, sampler. Returns the PNG's path. Raises
    ConfigError for labels that the model does not know or an ``out`` that exists.
    """
    apply_settings(config, settings)
    experiment = build(config)
    num = num or config.sample.num
    chosen = labels_for(experiment, labels, num)
    png = _free_path(workdir, out)
    trained = load(experiment, workdir)
    images = generator(experiment, config.sample, progress="sampling")(trained.params, num, condition(chosen), seed)
    save_grid(png, experiment, images, chosen)
    about = {"step": trained.step, "seed": seed, **flatten(config.sample)}
    levels = to_uint8(images)
    arrays: dict[str, Any] = {"images": levels, "settings": np.array(json.dumps(about))}
    if chosen is not None:
        arrays["labels"] = chosen
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(png.with_suffix(".npz"), buffer.getvalue())
    print(f"{num} samples of step {trained.step}: {png} and {png.with_suffix('.npz').name}")
    return png


def evaluate(config: ConfigDict, workdir: Path, *, num: int | None = None, seed: int = 0, **settings: Any) -> dict:
    """Evaluate the newest checkpoint of ``workdir``, print the table and write ``report.json``; returns the report."""
    apply_settings(config, settings)
    if num is not None:
        config.evaluate.num = num
    experiment = build(config)
    return write_report(experiment, load(experiment, workdir), workdir, seed)


def read_config(workdir: Path) -> ConfigDict:
    """The config that ``workdir`` was trained with. Raises ConfigError where there is none."""
    path = workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{path} not found: train first, or name another --workdir")
    try:
        return ConfigDict(read_json(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def apply_settings(config: ConfigDict, settings: dict[str, Any]) -> None:
    """Put command-line settings (steps, guidance, sampler) into ``config.sample``."""
    if "steps" in settings:
        config.sample.steps = settings["steps"]
    if "guidance" in settings:
        with config.ignore_type():
            config.sample.guidance.scale = settings["guidance"]
    if settings.get("sampler", config.sample.sampler.name) != config.sample.sampler.name:
        config.sample.sampler = ConfigDict({"name": settings["sampler"]})


def load(experiment: Experiment, workdir: Path) -> Trained:
    """The newest sound checkpoint of a run. Raises CheckpointError where there is none."""
    decay = experiment.config.ema[0]
    shapes = abstract_state(experiment.model, experiment.optimizer, make_mesh())
    wanted = jax.tree_util.tree_map_with_path(  # the optimiser's moments stay on the disk
        lambda path, leaf: leaf if f".ema['{float(decay)!r}']" in jax.tree_util.keystr(path) else ..., shapes
    )
    with closing(Checkpoints(workdir / "checkpoints", read_only=True, warn=print)) as checkpoints:
        restored = checkpoints.restore(wanted)
    if restored is None:
        raise ConfigError(f"no checkpoint in {workdir / 'checkpoints'}: train first, or name another --workdir")
    return Trained(get_ema(restored.state.opt_state, decay), restored.step, restored.meta["seconds"])


def generator(
    experiment: Experiment, settings: ConfigDict, batch_size: int | None = None, progress: str = ""
) -> Callable[..., np.ndarray]:
    """``generate(params, count, cond, seed)`` -> images [count, h, w, c] in [-1, 1]; one compilation, all devices."""
    mesh = make_mesh()
    size = -(-(batch_size or experiment.config.evaluate.batch) // mesh.size) * mesh.size
    place = partial(jax.device_put, device=batch_sharding(mesh))
    generate = make_generate(make_sample(experiment, settings), batch_size=size, place=place)

    def with_bar(params: Params, count: int, cond: Cond, seed: int = 0) -> np.ndarray:
        with tqdm(total=count, desc=progress, unit="img", disable=not progress or None, leave=False, ncols=79) as bar:
            return generate(params, count, cond, seed, lambda done: bar.update(done - bar.n))

    return with_bar


def heldout_loss(experiment: Experiment) -> Callable[[Params], dict[str, float]]:
    """``measure(params)``: the dense loss on the first ``evaluate.images`` held-out images, also by noise level."""
    settings, mesh = experiment.config.evaluate, make_mesh()
    source = experiment.dataset.heldout
    images, labels = read(source, min(settings.images, len(source)))
    size = -(-min(settings.batch, len(images)) // mesh.size) * mesh.size
    place = partial(jax.device_put, device=batch_sharding(mesh))
    measure = make_heldout(
        experiment.heldout,
        experiment.process,
        levels=settings.levels,
        batch_size=size,
        times=experiment.heldout_times,
        place=place,
    )
    return lambda params: measure(params, Batch(jnp.asarray(images), condition(labels)))


def bits_per_dim(experiment: Experiment, params: Params) -> float | None:
    """The variational bound on the first ``evaluate.bits_per_dim.images`` held-out images; None where that is 0."""
    if experiment.bits_per_dim is None:
        return None
    source, mesh = experiment.dataset.heldout, make_mesh()
    images, labels = read(source, min(experiment.config.evaluate.bits_per_dim.images, len(source)))
    size = -(-min(experiment.config.evaluate.batch, len(images)) // mesh.size) * mesh.size
    place = partial(jax.device_put, device=batch_sharding(mesh))
    data = Batch(jnp.asarray(images), condition(labels))
    return mean_bits_per_dim(experiment.bits_per_dim, params, data, batch_size=size, place=place)


def read(source: Source, count: int | None = None) -> Labelled:
    """Images [n, h, w, c] in [-1, 1] and labels [n] or None: the first ``count`` of a source, or all."""
    records = source.fetch(np.arange(len(source) if count is None else count))
    return np.asarray(to_float(records["image"])), records.get("label")


def flops_per_image(experiment: Experiment) -> float:
    """Analytic FLOPs of training on one image."""
    params = jax.eval_shape(experiment.model.init, jax.random.key(0))
    forward = lambda p, batch, key: experiment.objective.loss(p, batch, key)[0]  # noqa: E731
    return training_flops(forward, params, abstract_batch(experiment, 1), jax.random.key(0))


def write_report(experiment: Experiment, trained: Trained, workdir: Path, seed: int = 0) -> dict[str, Any]:
    """Measure, print the table, write ``report.json`` and a grid of the samples; returns the report."""
    config = experiment.config
    settings = config.evaluate
    metrics: dict[str, Any] = dict.fromkeys(METRICS)
    judged_scale = settings.judge_guidance
    if settings.num:
        labels = labels_for(experiment, None, settings.num)
        draw = lambda cfg, text: generator(experiment, cfg, progress=text)(  # noqa: E731
            trained.params, settings.num, condition(labels), seed
        )
        images = draw(config.sample, "samples")
        judged = None
        if experiment.judge is not None and labels is not None:
            guided = config.sample.copy_and_resolve_references()
            with guided.ignore_type():
                guided.guidance.scale = judged_scale
            judged = (draw(guided, "guided samples"), labels)
            save_grid(workdir / "samples" / "final.png", experiment, judged[0][: config.sample.num], labels)
        else:
            save_grid(workdir / "samples" / "final.png", experiment, images[: config.sample.num], labels)
        train, heldout = read(experiment.dataset.train), read(experiment.dataset.heldout)
        metrics = quality(images, train, heldout, judged, experiment.judge)
    images_seen = trained.step * config.batch
    report = make_report(
        name=config.name,
        **metrics,
        heldout=heldout_loss(experiment)(trained.params),
        edges=level_edges(experiment.process, settings.levels, experiment.heldout_times),
        bits_per_dim=bits_per_dim(experiment, trained.params),
        steps=trained.step,
        images=images_seen,
        seconds=trained.seconds,
        flops=images_seen * flops_per_image(experiment),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
        samples={
            "count": settings.num,
            "sampler": config.sample.sampler.name,
            "steps": config.sample.steps,
            "guidance": config.sample.guidance.scale,
            "class_count": settings.num,
            "class_guidance": judged_scale,
            "seed": seed,
        },
        provenance=provenance(config.to_dict()),
    )
    save_report(workdir / "report.json", report)
    print(format_table(report))
    return report


def condition(labels: np.ndarray | None) -> Cond:
    """The conditions of samples with these class labels [n], or of none."""
    return Cond(label=None if labels is None else jnp.asarray(labels))


def labels_for(experiment: Experiment, chosen: list[str] | None, count: int) -> np.ndarray | None:
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
    columns = experiment.dataset.classes if labels is not None and experiment.dataset.classes <= 12 else None
    save_png(path, images, columns=columns)
