"""What the metrics read of a set of images: features, or their moments alone."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from maskdiff_jax.evaluate.metrics.moments import Moments, add

STREAMED = {
    "pool": "moments",
    "spatial": "spatial",
}  # the features of which moments are taken, and how these are called
_ROWS = 1024  # features that moments are updated with at once: a pass over a covariance costs as much as many of them


class Images(NamedTuple):
    """A set of images, as far as it is known; None for what no metric asks for.

    ``pool`` [n, d] and ``logits`` [n, c] are kept; of ``moments`` (of the pooled features) and ``spatial`` (of those of
    a feature map) there is only mean and covariance, float64.
    """

    pool: np.ndarray | None = None
    logits: np.ndarray | None = None
    moments: Moments | None = None
    spatial: Moments | None = None


def collect(parts: Iterable[Mapping[str, np.ndarray]], fields: Collection[str], name: str = "features") -> Images:
    """The ``fields`` of `Images` from a stream of batches {"pool": [b, d], "logits": [b, c], "spatial": [b, e]}.

    What is not asked for is dropped, and a batch need not have it. Raises ValueError, with ``name``, where there is no
    batch, or one lacks what is asked for or has a NaN in features that moments are taken of.
    """
    kept: dict[str, list[np.ndarray]] = {key: [] for key in ("pool", "logits") if key in fields}
    waiting: dict[str, list[np.ndarray]] = {key: [] for key, field in STREAMED.items() if field in fields}
    seen: dict[str, Moments | None] = dict.fromkeys(waiting)
    for part in parts:
        if missing := (kept.keys() | waiting.keys()) - part.keys():
            raise ValueError(f"{name} have no {', '.join(sorted(missing))}, only {', '.join(sorted(part))}")
        for key, rows in kept.items():
            rows.append(part[key])
        for key, rows in waiting.items():
            rows.append(part[key])
            if sum(map(len, rows)) >= _ROWS:
                seen[key] = add(seen[key], np.concatenate(rows), name)
                rows.clear()
    for key, rows in waiting.items():
        if rows:
            seen[key] = add(seen[key], np.concatenate(rows), name)
    if not all(kept.values()) or None in seen.values():
        raise ValueError(f"no {name}")
    arrays = {key: np.concatenate(rows) for key, rows in kept.items()}
    moments = {STREAMED[key]: value for key, value in seen.items()}
    return Images(arrays.get("pool"), arrays.get("logits"), moments.get("moments"), moments.get("spatial"))
