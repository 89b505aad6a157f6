"""Metrics of sets of images against one reference, whose features are made once, and only where a metric asks."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from maskdiff_jax.evaluate.features import Features, stream
from maskdiff_jax.evaluate.image_sets import ImageSet
from maskdiff_jax.evaluate.metrics import (
    METRICS,
    Images,
    Needs,
    Options,
    Pairs,
    Reference,
    Work,
    closest_pairs,
    collect,
    measure,
    needed,
)

PAIRS = 10  # samples that are shown beside their nearest training image

# compute() -> Reference, or what was kept of an earlier one.
Keep = Callable[[Callable[[], Reference]], Reference]


class Scores(NamedTuple):
    """``values``: {metric: value}; ``counts``: images of each set that was read; ``features``: what they are.

    ``rate``: images a second through the features. ``pairs``: the samples nearest to a training image, where a metric
    looked for these.
    """

    values: dict[str, float]
    counts: dict[str, int]
    rate: float
    features: dict[str, Any]
    pairs: Pairs | None = None


def make_scorer(
    metrics: Iterable[str],
    features: Features,
    real: ImageSet | Reference,
    *,
    train: ImageSet | None = None,
    heldout: ImageSet | None = None,
    keep: Keep | None = None,
    options: Options = Options(),  # noqa: B008  (never mutated)
    bars: bool = False,
) -> Callable[[ImageSet], Scores]:
    """``score(samples) -> Scores`` of ``metrics``, names of `METRICS`, against ``real`` images or their statistics.

    ``train`` and ``heldout`` are needed by the metrics of copying; where ``train`` is the very object ``real``, its
    features are made once. ``keep`` may find statistics of ``real`` that were kept, or keep them: it is asked where no
    metric needs more. ``bars``: show progress. What the reference gives is remembered from call to call.

    Raises ValueError, in one line, for a metric that there is not, a set that one needs and that was not given, and
    features of real images that lack what a metric needs. ``score`` raises it for too few images, images of another
    shape, and values that are not finite.
    """
    metrics = list(metrics)
    needs = needed(metrics)
    for name, given in (("train", train), ("heldout", heldout)):
        if name in needs.also and given is None:
            asking = next(metric for metric in metrics if name in needed([metric]).also)
            raise ValueError(f"{asking} needs {name} images")

    if isinstance(real, ImageSet):
        _check_features(features, next(real.batches())[:1], needs)
    else:
        there = {"moments"} | ({"spatial"} if real.spatial else set())
        for name in metrics:
            if missing := needed([name]).real - there:
                raise ValueError(
                    f"{name} needs {' and '.join(sorted(missing))} of real images, not only their statistics"
                )

    def extracted(images: ImageSet, name: str) -> Iterator[dict[str, np.ndarray]]:
        disable = None if bars else True
        with tqdm(total=images.count, desc=name, unit="img", disable=disable, leave=False, ncols=79) as bar:

            def show(done: int) -> None:
                bar.update(done - bar.n)

            yield from stream(features, images.batches(), show)

    def collected(images: ImageSet, name: str, fields: set[str]) -> Images:
        return collect(extracted(images, name), fields, f"features of {images.path}")

    def statistics() -> Reference:
        """Of all kinds that the features have, as they are kept for metrics to come."""
        assert isinstance(real, ImageSet)
        parts = extracted(real, "real")
        first = next(parts)
        fields = {"moments"} | ({"spatial"} & first.keys())
        found = collect(chain([first], parts), fields, f"features of {real.path}")
        assert found.moments is not None
        return Reference(found.moments, found.spatial)

    @cache
    def reference() -> tuple[Images, np.ndarray | None, np.ndarray | None]:
        """The real images, and the pooled features of training and held-out ones, as far as they are needed."""
        fields = set(needs.real) | ({"pool"} if "train" in needs.also and train is real else set())
        if isinstance(real, Reference):
            found = Images(moments=real.moments, spatial=real.spatial)
        elif keep is not None and fields and fields <= {"moments", "spatial"}:
            kept = keep(statistics)
            found = Images(moments=kept.moments, spatial=kept.spatial)
        else:
            found = collected(real, "real", fields) if fields else Images()
        pools = {"train": found.pool if train is real else None, "heldout": None}
        for name, images in (("train", train), ("heldout", heldout)):
            if name in needs.also and pools[name] is None and images is not None:
                pools[name] = collected(images, name, {"pool"}).pool
        return found, pools["train"], pools["heldout"]

    def score(samples: ImageSet) -> Scores:
        wanted = {"real"} | needs.also
        sets = {"real": real, "train": train, "heldout": heldout}
        used = {name: images for name, images in sets.items() if isinstance(images, ImageSet) and name in wanted}
        for name, images in used.items():
            if images.shape != samples.shape:
                theirs, ours = ("x".join(map(str, s.shape)) for s in (images, samples))
                raise ValueError(f"{name} images {images.path} are of {theirs}, and {samples.path} of {ours}")
        for name in metrics:
            if samples.count < METRICS[name].least(options):
                raise ValueError(f"{name} needs at least {METRICS[name].least(options)} samples, got {samples.count}")
        began = time.perf_counter()
        fake = collected(samples, "samples", _fields(needs, samples))
        rate = samples.count / (time.perf_counter() - began)
        classes = None
        if fake.logits is not None and samples.labels is not None:
            classes = fake.logits.argmax(axis=1), samples.labels
        work = Work(fake, *reference(), classes, options)
        values = measure(metrics, work)
        pairs = closest_pairs(work.nearest("fake", "train", 1), PAIRS) if "train" in needs.also else None
        counts = {"samples": samples.count} | {name: images.count for name, images in used.items()}
        return Scores(values, counts, rate, {"name": features.name, **features.about}, pairs)

    return score


def _check_features(features: Features, image: np.ndarray, needs: Needs) -> None:
    wanted = {"pool" if field == "moments" else field for field in needs.fake | needs.real}
    wanted |= {"logits"} if "labels" in needs.also else set()
    there = features.extract(image).keys()
    if missing := sorted(wanted - there):
        raise ValueError(f"{features.name} features have no {', '.join(missing)}, only {', '.join(sorted(there))}")


def _fields(needs: Needs, samples: ImageSet) -> set[str]:
    """What of the features of samples is kept."""
    fields = set(needs.fake)
    if "labels" in needs.also and samples.labels is not None:
        fields.add("logits")
    return fields or {"moments"}


def format_scores(scores: Scores) -> str:
    """A line for each metric: its value, which values are better, and what it is."""
    rows = []
    for name, value in scores.values.items():
        metric = METRICS.get(name)
        note = f"{metric.describes}{f' ({metric.better} is better)' if metric.better else ''}" if metric else ""
        rows.append(f"{name:<16}{value:>12.6g}  {note}".rstrip())
    counts = ", ".join(f"{count:,} {name}" for name, count in scores.counts.items())
    rows.append(f"{counts}; {scores.features['name']} features, {scores.rate:,.0f} images/s")
    return "\n".join(rows)
