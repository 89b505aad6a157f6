"""Metrics of one set of images against another, without a run, PyTorch or TensorFlow.

    python -m maskdiff_jax.evaluate --real DIR_OR_NPZ --fake DIR_OR_NPZ --features=pixels --metrics=fid,kid [--out=F]

A set is a folder of image files of one size, or an .npz with ``images`` or ``arr_0``, uint8 [n, h, w, c]; ``labels``
beside them are classes. ``--real`` may be a file of statistics (``mu``, ``sigma``), where the metrics need no more.
Bad input ends in one line and exit status 2.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from maskdiff_jax.evaluate.features import FEATURES, Given
from maskdiff_jax.evaluate.image_sets import ImageSet, is_statistics, read_images, whole
from maskdiff_jax.evaluate.metrics import METRICS, needed, read_reference
from maskdiff_jax.evaluate.scorer import Scores, format_scores, make_scorer
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.parallel import collect, make_mesh, place
from maskdiff_jax.train.provenance import provenance

WEIGHTS = "weights"  # the option of features that names a file


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    metrics = [name for name in options.metrics.split(",") if name]
    try:
        scores = evaluate(
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
    print(format_scores(scores))
    if options.out:
        about: dict[str, Any] = {"real": str(options.real), "fake": str(options.fake), "metrics": metrics}
        about["features"] = scores.features
        found = about | {"values": scores.values, "counts": scores.counts, "images_per_second": scores.rate}
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


def evaluate(
    metrics: list[str],
    *,
    real: Path,
    fake: Path,
    train: Path | None = None,
    heldout: Path | None = None,
    features: str = "pixels",
    settings: dict[str, Any] | None = None,
) -> Scores:
    """The ``metrics`` of the images at ``fake`` against those at ``real``. Raises ValueError, in one line."""
    needs = needed(metrics)
    make = FEATURES[features](**settings or {})
    samples = read_images(fake)
    reference = read_reference(real) if is_statistics(real) else read_images(real)
    own = reference if isinstance(reference, ImageSet) else None
    if own is not None and own.shape != samples.shape:
        theirs, ours = ("x".join(map(str, s.shape)) for s in (own, samples))
        raise ValueError(f"--real images {own.path} are of {theirs}, and --fake {samples.path} of {ours}")
    training = read_images(train) if train else own
    if "train" in needs.also and training is None:
        raise ValueError("--train is needed: --real is a file of statistics")
    if "heldout" in needs.also and heldout is None:
        raise ValueError("ct needs --heldout")
    read = None if own is None or own.labels is None else lambda: whole(own)
    mesh = make_mesh()
    given = Given(samples.shape, train=read, place=partial(place, mesh), collect=collect, devices=mesh.size)
    score = make_scorer(
        metrics,
        make(given),
        reference,
        train=training,
        heldout=read_images(heldout) if heldout else None,
        bars=True,
    )
    return score(samples)


if __name__ == "__main__":
    main()
