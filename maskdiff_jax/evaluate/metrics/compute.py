"""Several metrics of one set of samples."""

from collections.abc import Iterable

import numpy as np

from maskdiff_jax.evaluate.metrics.images import Images
from maskdiff_jax.evaluate.metrics.kid import Spread
from maskdiff_jax.evaluate.metrics.table import METRICS, NEEDS, Metric, Needs
from maskdiff_jax.evaluate.metrics.work import Options, Work


def needed(names: Iterable[str]) -> Needs:
    """What the metrics ``names`` read, together. Raises ValueError for a name that there is not."""
    needs = [NEEDS[metric.needs] for metric in _chosen(names).values()]
    return Needs(*(frozenset().union(*fields) for fields in zip(*needs, strict=True)))


def compute(
    names: Iterable[str],
    fake: Images,
    real: Images,
    train: np.ndarray | None = None,
    heldout: np.ndarray | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    options: Options = Options(),  # noqa: B008  (never mutated)
) -> dict[str, float]:
    """The metrics ``names`` of samples ``fake`` against ``real`` images: {name: value}; of a `Spread` "name_std" too.

    ``train`` and ``heldout`` are pooled features [m, d] of training and held-out images; ``labels`` are the classes
    seen in the samples and those asked for, [n] each. For values to compare with, give held-out images as ``fake``.
    What several metrics search for is searched once; where ``train`` is the very array ``real.pool``, so are its
    neighbours. Raises ValueError before anything is computed for a name that there is not, an input that is missing or
    too few samples; and for features that are not finite, or of differing widths.
    """
    return measure(names, Work(fake, real, train, heldout, labels, options))


def measure(names: Iterable[str], work: Work) -> dict[str, float]:
    """As `compute`, of inputs that remember what was searched: for more metrics of them, or for `closest_pairs`."""
    chosen = _chosen(names)
    for name, metric in chosen.items():
        _check(name, metric, work)
    values: dict[str, float] = {}
    for name, metric in chosen.items():
        value = metric.function(work)
        if isinstance(value, Spread):
            values |= {name: value.mean, f"{name}_std": value.deviation}
        else:
            values[name] = value
    return values


def _chosen(names: Iterable[str]) -> dict[str, Metric]:
    names = list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"unknown metric {unknown[0] if unknown else ''!r}: choose from {', '.join(METRICS)}")
    return {name: METRICS[name] for name in names}


def _check(name: str, metric: Metric, work: Work) -> None:
    needs, least = NEEDS[metric.needs], metric.least(work.options)
    for images, fields, what in ((work.fake, needs.fake, "samples"), (work.real, needs.real, "real images")):
        for field in fields:
            count = _count(images, field)
            if count is None:
                raise ValueError(f"{name} needs {field} of the {what}")
            if 0 < count < least:  # 0: statistics from a file that does not say
                raise ValueError(f"{name} needs at least {least} {what}, got {count}")
    if missing := sorted(needs.also & work.missing()):
        raise ValueError(f"{name} needs {' and '.join(missing)}")


def _count(images: Images, field: str) -> int | None:
    """How many images there are of a field, None without it; moments may be taken of the features."""
    found = getattr(images, field)
    if found is None:
        return None if field != "moments" or images.pool is None else len(images.pool)
    return len(found) if isinstance(found, np.ndarray) else found.count
