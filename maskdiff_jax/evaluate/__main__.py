"""Metrics of one set of images against another, without a run, PyTorch or TensorFlow.

    python -m maskdiff_jax.evaluate --real DIR_OR_NPZ --fake DIR_OR_NPZ --features=pixels --metrics=fid,kid [--out=F]

A set is a folder of image files of one size, or an .npz with ``images`` or ``arr_0``, uint8 [n, h, w, c]; ``labels``
beside them are classes. ``--real`` may be a file of statistics (``mu``, ``sigma``), where the metrics need no more.
Bad input ends in one line and exit status 2.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from maskdiff_jax.evaluate.features import FEATURES, Features, Given, stream
from maskdiff_jax.evaluate.image_sets import ImageSet, is_statistics, read_images
from maskdiff_jax.evaluate.metrics import (
    METRICS,
    Images,
    Needs,
    Options,
    collect,
    compute,
    needed,
    read_reference,
)
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.provenance import provenance

WEIGHTS = "weights"  # the option of features that names a file


class Measured(NamedTuple):
    """``values``: {metric: value}; ``counts``: images of each set; ``rate``: images a second through the features."""

    values: dict[str, float]
    counts: dict[str, int]
    rate: float
    features: dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    metrics = [name for name in options.metrics.split(",") if name]
    try:
        measured = measure(
            metrics,
            real=options.real,
            fake=options.fake,
            train=options.train,
            heldout=options.heldout,
            features=options.features,
            settings=settings_of(options),
        )
    except (ValueError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    print(format_table(measured))
    if options.out:
        about: dict[str, Any] = {"real": str(options.real), "fake": str(options.fake), "metrics": metrics}
        about["features"] = measured.features
        found = about | {"values": measured.values, "counts": measured.counts, "images_per_second": measured.rate}
        write_json(options.out, found | {"provenance": provenance(about)})


def parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    described = "; ".join(f"{name}: {metric.describes}" for name, metric in METRICS.items())
    command = "python -m maskdiff_jax.evaluate"
    found = argparse.ArgumentParser(command, description=summary, epilog=f"Metrics: {described}.")
    found.add_argument("--real", type=Path, required=True, help="folder, .npz of images, or .npz of statistics")
    found.add_argument("--fake", type=Path, required=True, help="folder or .npz of images")
    found.add_argument("--train", type=Path, help="training images, for nearest, copied, authpct, ct [--real]")
    found.add_argument("--heldout", type=Path, help="held-out images, for ct")
    found.add_argument("--features", default="pixels", choices=FEATURES, help="[pixels]")
    found.add_argument("--metrics", default="fid", help=f"of {','.join(METRICS)} [fid]")
    found.add_argument("--weights", help="file of inception's weights")
    found.add_argument("--sha256", help="of that file")
    found.add_argument("--convention", help="of inception: tf or torch [tf]")
    found.add_argument("--out", type=Path, help="a JSON file for the result")
    return found


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the features that were given."""
    names = (WEIGHTS, "sha256", "convention")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given and options.features != "inception":
        print(f"error: --{next(iter(given))} is of --features=inception", file=sys.stderr)
        sys.exit(2)
    if options.features == "inception" and WEIGHTS not in given:
        given[WEIGHTS] = "inception.npz"  # whose absence says where to get it
    return given


def measure(
    metrics: list[str],
    *,
    real: Path,
    fake: Path,
    train: Path | None = None,
    heldout: Path | None = None,
    features: str = "pixels",
    settings: dict[str, Any] | None = None,
) -> Measured:
    """The ``metrics`` of the images at ``fake`` against those at ``real``. Raises ValueError, in one line."""
    needs = needed(metrics)
    make = FEATURES[features](**settings or {})
    samples = read_images(fake)
    statistics = read_reference(real) if is_statistics(real) else None
    reference = None if statistics else read_images(real)
    sets = {"fake": samples, "real": reference}
    if "train" in needs.also:
        sets["train"] = read_images(train) if train else reference
        if sets["train"] is None:
            raise ValueError("--train is needed: --real is a file of statistics")
    if "heldout" in needs.also:
        if heldout is None:
            raise ValueError("ct needs --heldout")
        sets["heldout"] = read_images(heldout)
    for name, images in sets.items():
        if images and images.shape != samples.shape:
            theirs, ours = ("x".join(map(str, s.shape)) for s in (images, samples))
            raise ValueError(f"--{name} {images.path} has images of {theirs}, and --fake {samples.path} of {ours}")
    own = make(Given(samples.shape, train=_labelled(reference), heldout=None))
    began, seen = time.perf_counter(), 0
    found: dict[str, Images] = {}
    for name, images in sets.items():
        if images is not None:
            fields = _fields(name, needs, own, metrics, samples)
            found[name] = collect(_extracted(own, images, name), fields, f"features of {images.path}")
            seen += images.count
    if statistics:
        found["real"] = Images(moments=statistics.moments, spatial=statistics.spatial)
    rate = seen / (time.perf_counter() - began)
    options = Options()
    values = compute(
        metrics,
        found["fake"],
        found["real"],
        found["train"].pool if "train" in found else None,
        found["heldout"].pool if "heldout" in found else None,
        _classes(found["fake"], samples),
        options,
    )
    counts = {name: images.count for name, images in sets.items() if images}
    return Measured(values, counts, rate, {"name": own.name, **own.about})


def _labelled(images: ImageSet | None) -> tuple[np.ndarray, np.ndarray] | None:
    """All images of a set and their labels, for features that learn from them."""
    if images is None or images.labels is None:
        return None
    return np.concatenate(list(images.batches())), images.labels


def _fields(name: str, needs: Needs, features: Features, metrics: list[str], samples: ImageSet) -> set[str]:
    """What of a set's features is kept."""
    if name in ("train", "heldout"):
        return {"pool"}
    fields = set(needs.fake if name == "fake" else needs.real)
    if name == "fake" and "labels" in needs.also and samples.labels is not None:
        fields.add("logits")
    return fields or {"moments"}


def _extracted(features: Features, images: ImageSet, name: str) -> Iterator[dict[str, np.ndarray]]:
    with tqdm(total=images.count, desc=name, unit="img", disable=None, leave=False, ncols=79) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield from stream(features, images.batches(), show)


def _classes(fake: Images, samples: ImageSet) -> tuple[np.ndarray, np.ndarray] | None:
    if fake.logits is None or samples.labels is None:
        return None
    return fake.logits.argmax(axis=1), samples.labels


def format_table(measured: Measured) -> str:
    """A line for each metric: its value, which values are better, and what it is."""
    rows = []
    for name, value in measured.values.items():
        metric = METRICS.get(name)
        note = f"{metric.describes}{f' ({metric.better} is better)' if metric.better else ''}" if metric else ""
        rows.append(f"{name:<16}{value:>12.6g}  {note}".rstrip())
    counts = ", ".join(f"{count:,} {name}" for name, count in measured.counts.items())
    rows.append(f"{counts}; {measured.features['name']} features, {measured.rate:,.0f} images/s")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
