"""The table of metrics. A new one is one function and its line in `METRICS`."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from maskdiff_jax.evaluate.judge import class_accuracy
from maskdiff_jax.evaluate.metrics.copying import cells_of, copying_score
from maskdiff_jax.evaluate.metrics.inception_score import inception_score
from maskdiff_jax.evaluate.metrics.kid import Spread, kid
from maskdiff_jax.evaluate.metrics.memorisation import authentic_percent, copied_share
from maskdiff_jax.evaluate.metrics.moments import fid
from maskdiff_jax.evaluate.metrics.prdc import coverage, density, precision
from maskdiff_jax.evaluate.metrics.work import Options, Work


class Needs(NamedTuple):
    """The fields of `Images` that are read of samples and of real images, and which of train, heldout and labels."""

    fake: frozenset[str] = frozenset()
    real: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()


class Metric(NamedTuple):
    """``function(work)``: the value, or its mean and deviation over parts of the samples.

    ``needs``: a key of `NEEDS`. ``least(options)``: how many samples it takes at least, and real images where it reads
    those. ``better``: which values are, "" where neither. ``describes``: in one line.
    """

    function: Callable[[Work], float | Spread]
    needs: str
    least: Callable[[Options], int]
    better: Literal["lower", "higher", ""]
    describes: str


def _fid(work: Work) -> float:
    return fid(work.moments("fake"), work.moments("real"))


def _sfid(work: Work) -> float:
    return fid(work.spatial("fake"), work.spatial("real"))


def _kid(work: Work) -> Spread:
    options = work.options
    return kid(work.features("fake"), work.features("real"), options.kid_subsets, options.kid_size, options.seed)


def _inception_score(work: Work) -> Spread:
    return inception_score(work.logits(), work.options.splits, work.options.seed)


def _precision(work: Work) -> float:
    return precision(work.held_by_real())


def _recall(work: Work) -> float:
    return precision(work.held_by_fake())


def _density(work: Work) -> float:
    return density(work.held_by_real(), work.options.k_density)


def _coverage(work: Work) -> float:
    return coverage(work.held_by_real())


def _nearest(work: Work) -> float:
    return float(work.nearest("fake", "train", 1).distances.mean())


def _copied(work: Work) -> float:
    return copied_share(work.nearest("fake", "train", 2), work.options.ratio)


def _authentic(work: Work) -> float:
    return authentic_percent(work.nearest("fake", "train", 1), work.others("train", 1))


def _copying(work: Work) -> float:
    sets, options = ("fake", "heldout"), work.options
    cells = cells_of(work.features("train"), [work.features(name) for name in sets], options.cells, options.seed)
    squares = [work.nearest(name, "train", 1).squares[:, 0] for name in sets]  # a rank test: as good as distances
    fake, heldout = zip(squares, cells, strict=True)
    return copying_score(fake, heldout, options.cell_least)


def _class_accuracy(work: Work) -> float:
    seen, asked = work.labels()
    return class_accuracy(lambda labels: labels, seen, asked)


def _one(_: Options) -> int:
    return 1


def _two(_: Options) -> int:
    return 2


def _size(options: Options) -> int:
    return options.kid_size


def _splits(options: Options) -> int:
    return options.splits


def _neighbours(options: Options) -> int:
    return max(options.k, options.k_density) + 1


def _cell(options: Options) -> int:
    return options.cell_least


_pool = frozenset({"pool"})

NEEDS: dict[str, Needs] = {
    "moments": Needs(frozenset({"moments"}), frozenset({"moments"})),
    "features": Needs(_pool, _pool),
    "logits": Needs(frozenset({"logits"})),
    "spatial": Needs(frozenset({"spatial"}), frozenset({"spatial"})),
    "train": Needs(_pool, also=frozenset({"train"})),
    "heldout": Needs(_pool, also=frozenset({"train", "heldout"})),
    "labels": Needs(also=frozenset({"labels"})),
}

METRICS: dict[str, Metric] = {
    "fid": Metric(_fid, "moments", _two, "lower", "distance between Gaussians fitted to the features"),
    "kid": Metric(_kid, "features", _size, "lower", "kernel distance between the features, without bias"),
    "sfid": Metric(_sfid, "spatial", _two, "lower", "fid of features that keep their places in the image"),
    "is": Metric(_inception_score, "logits", _splits, "higher", "sure of each sample, many classes in all"),
    "precision": Metric(_precision, "features", _neighbours, "higher", "share of samples among the real images"),
    "recall": Metric(_recall, "features", _neighbours, "higher", "share of real images among the samples"),
    "density": Metric(
        _density, "features", _neighbours, "higher", "real images around a sample; 1: as around their own"
    ),
    "coverage": Metric(_coverage, "features", _neighbours, "higher", "share of real images with a sample nearby"),
    "nearest": Metric(_nearest, "train", _one, "", "mean distance to the nearest training image"),
    "copied": Metric(
        _copied, "train", _one, "lower", "share of samples far nearer to one training image than to others"
    ),
    "authpct": Metric(_authentic, "train", _one, "higher", "percentage of samples that are no noisy copies"),
    "ct": Metric(_copying, "heldout", _cell, "", "far below 0: nearer to training images than held-out ones are"),
    "class_accuracy": Metric(_class_accuracy, "labels", _one, "higher", "share of samples of the class asked for"),
}
