"""Images as they are measured, each once: held-out ones, and training images as a reference."""

import jax
import numpy as np

from maskdiff_jax.data.augment import Augment, for_heldout
from maskdiff_jax.data.device import ingest
from maskdiff_jax.data.source import Source
from maskdiff_jax.types import Batch

_CHUNK = 4096  # images in memory before and after they are cut


def held_out(
    source: Source,
    augment: Augment,
    seed: int = 0,
    indices: np.ndarray | None = None,
    *,
    high: tuple[str, ...] = (),
    low: tuple[str, ...] = (),
) -> Batch:
    """The images ``indices`` (all, by default) of a source under the held-out counterpart of ``augment``, in NumPy.

    ``image`` float32 [n, h, w, c] in [-1, 1] in the shape of training images; ``cond`` has ``label`` where there are
    labels, and the controls ``high`` and ``low`` of `ingest`. An image's running number is its index. Only
    augmentations that draw something for held-out images, too (`canvas`), depend on ``seed``.
    """
    still = for_heldout(augment)
    indices = np.arange(len(source)) if indices is None else indices

    def part(chosen: np.ndarray) -> Batch:
        records = source.fetch(chosen)
        controls = still.controls(seed, chosen, records["image"].shape[1:])
        return ingest(still, {**records, "controls": controls}, high=high, low=low)

    parts = [part(indices[cut : cut + _CHUNK]) for cut in range(0, len(indices), _CHUNK)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
