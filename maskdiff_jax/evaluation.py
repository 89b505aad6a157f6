"""Metrics of any number of samples of a run under any settings; an interrupted evaluation goes on where it stopped.

D/evaluations/NAME/metrics.json    what was measured of samples of one checkpoint under one setting
D/evaluations/NAME/samples/        these samples: another metric, or more of them, start from there
D/evaluations/NAME/nearest.png     those nearest to a training image, where a metric looked for that
"""

import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from maskdiff_jax.build import Experiment, make_sample, strength
from maskdiff_jax.data import to_uint8
from maskdiff_jax.evaluate.image_sets import ImageSet
from maskdiff_jax.evaluate.sample_store import at_hand, fill, images_at, stored
from maskdiff_jax.evaluate.scorer import Scores, format_scores
from maskdiff_jax.inference import Trained, condition, generator, labels_for, load, with_settings
from maskdiff_jax.parts import ConfigError, checked, flatten
from maskdiff_jax.reporting import make_score, save_pairs, write_page, write_report
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.digest import describe, json_digest
from maskdiff_jax.train.files import read_json, write_json
from maskdiff_jax.train.progress import say
from maskdiff_jax.types import Params


def evaluate(
    config: ConfigDict,
    workdir: Path,
    *,
    num: int | None = None,
    seed: int = 0,
    checkpoint: str = "newest",
    metrics: Sequence[str] | None = None,
    features: str | None = None,
    weights: str | None = None,
    reference: str | None = None,
    steps: Sequence[int] = (),
    guidance: Sequence[float] = (),
    sampler: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a checkpoint of ``workdir`` (see `inference.load`).

    Without ``metrics``: print the table and write ``report.json``; the report alone is returned. With ``metrics``:
    measure these of ``num`` samples for every combination of ``steps`` and ``guidance``, add the results to
    ``evaluations/`` and return one for each. ``features`` and ``weights`` replace ``evaluate.features``, ``reference``
    replaces ``evaluate.reference``.
    Raises ConfigError for what does not fit together, before anything is drawn.
    """
    if features is not None:
        config.evaluate.features = ConfigDict({"name": features})
    if weights is not None:
        with config.unlocked():
            config.evaluate.features.weights = weights
    if reference is not None:
        config.evaluate.reference = reference
    if num is not None:
        config.evaluate.num = num
    if metrics is not None:
        config.evaluate.metrics = tuple(metrics)
    elif len(steps) > 1 or len(guidance) > 1:
        raise ConfigError("several --steps or --guidance go with --metrics")
    combinations = itertools.product(steps or (None,), guidance or (None,))
    sections = [with_settings(config.sample, *combination, sampler) for combination in combinations]
    config.sample = sections[0]
    stage, trained = load(build_stages(config), workdir, checkpoint)
    if metrics is None:
        return [write_report(stage, config, trained, workdir, seed)]
    experiment = stage.experiment
    for section in sections:
        make_sample(experiment, section)  # which raises what does not fit, before the first is drawn
    score = checked("evaluate.metrics", make_score, experiment)
    results = [measure(experiment, section, trained, workdir, seed, score) for section in sections]
    write_page(workdir)
    return results


def measure(
    experiment: Experiment,
    section: ConfigDict,
    trained: Trained,
    workdir: Path,
    seed: int,
    score: Callable[[ImageSet], Scores],
) -> dict[str, Any]:
    """Draw the samples of a setting that are missing, score all, and add the result to its ``metrics.json``."""
    num, name = experiment.config.evaluate.num, section.sampler.name
    scale = section.guidance[strength(section.guidance)]
    about = {
        "step": trained.step,
        "seed": seed,
        "sampler": name,
        "steps": section.steps,
        "guidance": scale,
        "sample": {key: value for key, value in flatten(section).items() if key != "num"},
        "params": json_digest(describe(trained.params)),
    }
    called = f"step_{trained.step:07d}-{name}-{section.steps}-guidance_{scale:g}-seed_{seed}-{json_digest(about)[:8]}"
    folder = workdir / "evaluations" / called
    samples, rate = draw_samples(experiment, section, trained.params, folder / "samples", seed)
    scores = checked("evaluate.metrics", score, samples)
    found = {
        "features": scores.features,
        "num": num,
        "values": scores.values,
        "images_per_second": rate,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = folder / "metrics.json"
    before = read_json(path)["results"] if path.exists() else []
    write_json(path, {"settings": about, "results": [*before, found]})
    if scores.pairs is not None:
        save_pairs(folder / "nearest.png", experiment, images_at(samples, scores.pairs.samples), scores.pairs)
    drawn = f"drawn at {rate:,.1f} images/s" if rate else "drawn before"
    say(f"\n{name}, {section.steps} steps, guidance {scale:g}, step {trained.step}; samples {drawn}: {folder}")
    say(format_scores(scores))
    return {"settings": about, **found}


def draw_samples(
    experiment: Experiment, section: ConfigDict, params: Params, folder: Path, seed: int
) -> tuple[ImageSet, float | None]:
    """The first ``evaluate.num`` samples of ``folder``, once those that it lacks are drawn.

    Also how many images a second were drawn, compiling included; None where none was. An interruption loses a batch.
    """
    settings = experiment.config.evaluate
    labels = labels_for(experiment, None, settings.num)
    cond = condition(experiment, labels, settings.num)
    generate = generator(experiment, section)
    there = int(multihost_utils.broadcast_one_to_all(np.int32(at_hand(folder))))  # all processes draw together
    began = time.perf_counter()
    shown: Any = {"desc": "sampling", "unit": "img", "disable": None, "leave": False, "ncols": 79}
    with tqdm(total=settings.num, initial=min(there, settings.num), **shown) as bar:

        def draw(first: int, count: int) -> np.ndarray:
            part = jax.tree.map(lambda leaf: leaf[first : first + count], cond)
            images = generate(params, count, part, seed, first)
            if bad := int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum()):
                raise ConfigError(
                    f"{bad} of {count} samples from number {first} on hold NaN: choose another --checkpoint"
                )
            bar.update(count)
            return to_uint8(images)

        drawn = fill(folder, there, settings.num, draw, settings.batch, labels)
    rate = drawn / (time.perf_counter() - began) if drawn else None
    if jax.process_count() > 1:  # the first process has written what all now read
        multihost_utils.sync_global_devices("maskdiff_jax: samples")
    return stored(folder, settings.num), rate
