"""Features, logits, and what torch-fidelity 0.4.0 and prdc 0.2 said of them: see `tests.crosscheck.test_metrics`."""

from pathlib import Path

import numpy as np

from maskdiff_jax.evaluate.metrics import Images, Options, compute

FILE = Path(__file__).parent / "recorded" / "vectors.npz"
SCHEME = (0, 300, 280, 16)  # the seed, samples, real images and dimensions
OPTIONS = Options(kid_subsets=20, kid_size=100)
NAMES = ("fid", "kid", "is", "precision", "recall", "density", "coverage")
PREFIX = "value_"


def vectors() -> dict[str, np.ndarray]:
    """fake [300, 16], real [280, 16] and logits [300, 10], float32."""
    with np.load(FILE, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("fake", "real", "logits")}


def recorded() -> dict[str, float]:
    """The values that others gave."""
    with np.load(FILE, allow_pickle=False) as arrays:
        return {name.removeprefix(PREFIX): float(arrays[name]) for name in arrays.files if name.startswith(PREFIX)}


def ours(vectors: dict[str, np.ndarray]) -> dict[str, float]:
    """The values that we give."""
    return compute(NAMES, Images(vectors["fake"], vectors["logits"]), Images(vectors["real"]), options=OPTIONS)
