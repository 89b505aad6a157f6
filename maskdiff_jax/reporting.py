"""What a run comes to: the image metrics of samples, ``report.json``, ``report.html`` and the pictures beside them."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import rng
from maskdiff_jax.build import Experiment, mesh_for, strength
from maskdiff_jax.config import default_config
from maskdiff_jax.data import Source, held_out, to_float, to_uint8
from maskdiff_jax.data.source import digest
from maskdiff_jax.evaluate import page
from maskdiff_jax.evaluate.features import Features, Given
from maskdiff_jax.evaluate.grid import image_grid, save_picture
from maskdiff_jax.evaluate.heldout import level_edges
from maskdiff_jax.evaluate.image_sets import ImageSet, in_memory
from maskdiff_jax.evaluate.metrics import About, Pairs, Reference, cached_reference, read_reference
from maskdiff_jax.evaluate.nearest import closest
from maskdiff_jax.evaluate.quality import METRICS, Labelled, quality
from maskdiff_jax.evaluate.report import format_table, make_report, save_report
from maskdiff_jax.evaluate.scorer import PAIRS, Scores, make_scorer
from maskdiff_jax.inference import (
    Trained,
    bits_per_dim,
    condition,
    generator,
    heldout_loss,
    labels_for,
    save_grid,
)
from maskdiff_jax.machine import cache_folder
from maskdiff_jax.masks import SUPERVISIONS, VISIBILITIES, mask_maps
from maskdiff_jax.parts import checked, part
from maskdiff_jax.pictures import required
from maskdiff_jax.stages import Stage
from maskdiff_jax.train.parallel import collect, place
from maskdiff_jax.train.progress import say
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.types import Batch, Params

_BLOCK = 1024  # real images that are read at a time
_COLUMNS = 8  # draws of masks that are shown


def labelled(experiment: Experiment, source: Source) -> Labelled:
    """All images of a source [n, h, w, c] as they are measured, and their labels [n] or None; see `images_of`."""
    images, labels = [], []
    for some in _blocks(source):
        data = held_out(source, experiment.augment, indices=some)
        images.append(_shown(experiment, data))
        labels += [] if data.cond.label is None else [np.asarray(data.cond.label)]
    return np.concatenate(images), np.concatenate(labels) if labels else None


def images_of(experiment: Experiment, source: Source, indices: np.ndarray) -> np.ndarray:
    """Images of a source [n, h, w, c] as they are measured; of latents what the autoencoder makes of their means."""
    return _shown(experiment, held_out(source, experiment.augment, indices=indices))


def _shown(experiment: Experiment, data: Batch) -> np.ndarray:
    images = np.asarray(data.image)
    if experiment.dataset.latents is None:
        return images
    return required(experiment.pictures)(images[..., : images.shape[-1] // 2])


def _blocks(source: Source) -> list[np.ndarray]:
    return [np.arange(start, min(start + _BLOCK, len(source))) for start in range(0, len(source), _BLOCK)]


def real_images(experiment: Experiment, source: Source, name: str) -> ImageSet:
    """The images of a source as they are measured, uint8 and without labels, read when they are needed."""

    def batches() -> Iterator[np.ndarray]:
        for some in _blocks(source):
            yield to_uint8(images_of(experiment, source, some))

    return ImageSet(Path(f"{experiment.dataset.name} ({name})"), experiment.picture_shape, len(source), batches)


def labelled_uint8(experiment: Experiment, source: Source) -> Labelled:
    """As `labelled`, but uint8."""
    images, labels = labelled(experiment, source)
    return to_uint8(images), labels


def make_score(experiment: Experiment) -> Callable[[ImageSet], Scores]:
    """``score(samples)``: the ``evaluate.metrics`` on ``evaluate.features`` against the training images.

    Their statistics are kept in `cache_folder` for every run on the same data; ``evaluate.reference`` may give others.
    Raises ConfigError.
    """
    config, dataset, mesh = experiment.config.evaluate, experiment.dataset, mesh_for(experiment.config)
    train = real_images(experiment, dataset.train, "train")
    heldout = real_images(experiment, dataset.heldout, "held out")
    given = Given(
        experiment.picture_shape,
        train=partial(labelled_uint8, experiment, dataset.train),
        heldout=partial(labelled_uint8, experiment, dataset.heldout),
        place=partial(place, mesh),
        collect=collect,
        cache=cache_folder(os.environ),
        devices=mesh.size,
    )
    make: Any = experiment.features
    features: Features = checked("evaluate.features", make, given)
    data = digest(dataset.fingerprint, sorted(experiment.config.augment.to_dict().items()))
    about = About(features.name, digest(features.identity), data, train.count)

    real: ImageSet | Reference = train
    if config.reference:
        real = checked("evaluate.reference", read_reference, config.reference, features.dims)

    def keep(compute: Callable[[], Reference]) -> Reference:
        return cached_reference(cache_folder(os.environ), about, compute)

    return make_scorer(config.metrics, features, real, train=train, heldout=heldout, keep=keep, bars=True)


def image_metrics(experiment: Experiment) -> Callable[..., dict[str, Any]]:
    """``measure(params, seed=0, pictures=None)`` -> the image metrics of a report, from ``evaluate.num`` samples.

    Those of ``evaluate.metrics`` are in its "metrics", "features" says on what. ``pictures`` is a folder for
    ``final.png``, a grid of the samples (those that the judge saw, where there is one), and ``nearest.png``.
    """
    config, dataset = experiment.config, experiment.dataset
    labels = labels_for(experiment, None, config.evaluate.num)
    draw = generator(experiment, config.sample, progress="samples")
    draw_guided = None
    if experiment.judge is not None and labels is not None:
        guided = config.sample.copy_and_resolve_references()
        with guided.ignore_type():
            guided.guidance[strength(guided.guidance)] = config.evaluate.judge_guidance
        draw_guided = generator(experiment, guided, progress="guided samples")
    train, heldout = labelled(experiment, dataset.train), labelled(experiment, dataset.heldout)
    cond = condition(experiment, labels, config.evaluate.num)
    score = make_score(experiment) if config.evaluate.metrics else None

    def measure(params: Params, seed: int = 0, pictures: Path | None = None) -> dict[str, Any]:
        arguments = (params, config.evaluate.num, cond, seed)
        images = draw(*arguments)
        judged = None if draw_guided is None else (draw_guided(*arguments), labels)
        found = closest(images, train[0], min(2, len(train[0])))
        metrics: dict[str, Any] = {"metrics": {}, "features": None}
        metrics |= quality(images, train, heldout, judged, experiment.judge, dataset.rule, found)
        if score is not None:
            scores = score(in_memory("samples", to_uint8(images), labels))
            metrics |= {"metrics": scores.values, "features": scores.features}
        if pictures is not None:
            shown = (images if judged is None else judged[0])[: config.sample.num]
            save_grid(pictures / "final.png", experiment, shown, labels)
            if dataset.draw is None:
                nearest = np.argsort(found[0][:, 0], kind="stable")[:PAIRS]
                pairs = Pairs(nearest, found[1][nearest, 0], found[0][nearest, 0])
                save_pairs(pictures / "nearest.png", experiment, images[nearest], pairs)
        return metrics

    return measure


def save_pairs(path: Path, experiment: Experiment, samples: np.ndarray, pairs: Pairs) -> None:
    """A picture of samples, above their nearest training images and the distances to these; closest first."""
    real = images_of(experiment, experiment.dataset.train, pairs.train[: len(samples)])
    both = np.concatenate([to_float(samples), real])
    words = [f"{distance:.3g}" for distance in pairs.distances[: len(samples)]]
    save_picture(path, image_grid(both, columns=len(samples), labels=[""] * len(samples) + words))


def save_masks(path: Path, experiment: Experiment) -> None:
    """A picture of a few draws of the masks of training, where there are any: a column for each.

    Rows: a training image, what the network sees of it, and what carries loss; the rest is grey. With a codec that
    changes the shape the masks are those of codes, white on black, and without the image.
    """
    config, dataset = experiment.config, experiment.dataset
    visibility = part("visibility", VISIBILITIES, config.visibility)
    supervision = part("supervision", SUPERVISIONS, config.supervision)
    keys = rng.per_image(rng.key_for(jax.random.key(config.seed), "masks"), _COLUMNS)
    shape = experiment.codec.shape(experiment.image_shape)
    draw = jax.jit(partial(mask_maps, visibility, supervision, experiment.model.tokens, shape))
    visible, kept = map(np.asarray, draw(keys))
    if kept.all() or dataset.draw is not None:
        return
    if shape == experiment.image_shape:
        ids = np.arange(_COLUMNS) % len(dataset.train)
        images = np.asarray(held_out(dataset.train, experiment.augment, indices=ids).image)
        rows = [images, *([] if visible.all() else [np.where(visible, images, 0)]), np.where(kept, images, 0)]
    else:
        rows = [2 * mask.mean(axis=-1, keepdims=True) - 1 for mask in (visible, kept) if not mask.all()]
    save_picture(path, image_grid(np.concatenate(rows), columns=_COLUMNS))


def write_report(
    stage: Stage, run_config: ConfigDict, trained: Trained, workdir: Path, seed: int = 0
) -> dict[str, Any]:
    """Measure, print the table, write ``report.json``, ``report.html`` and pictures; returns the report."""
    experiment = stage.experiment
    config = experiment.config
    settings = config.evaluate
    metrics: dict[str, Any] = dict.fromkeys(METRICS) | {"metrics": {}, "features": None}
    if settings.num and experiment.pictures is not None:
        metrics = image_metrics(experiment)(trained.params, seed, workdir / "samples")
    report = make_report(
        name=config.name,
        **metrics,
        heldout=heldout_loss(experiment)(trained.params),
        edges=level_edges(experiment.process, settings.levels, experiment.heldout_times),
        bits_per_dim=bits_per_dim(experiment, trained.params),
        steps=trained.step,
        images=stage.images_at(trained.step),
        seconds=trained.seconds,
        flops=stage.flops_at(trained.step),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
        samples={
            "count": settings.num,
            "sampler": config.sample.sampler.name,
            "steps": config.sample.steps,
            "guidance": config.sample.guidance[strength(config.sample.guidance)],
            "class_count": settings.num,
            "class_guidance": settings.judge_guidance,
            "seed": seed,
        },
        provenance=provenance(run_config.to_dict()),
    )
    save_report(workdir / "report.json", report)
    say(format_table(report))
    if config.log.page:
        write_page(workdir)
    return report


def report(config: ConfigDict, workdir: Path) -> None:
    """Write ``report.html`` of what is in ``workdir``, also of a run that is still training."""
    say(str(write_page(workdir)))


def write_page(workdir: Path) -> Path:
    """``report.html``: what the workdir holds, for eyes."""
    return page.write_page(workdir, default_config().to_dict())
