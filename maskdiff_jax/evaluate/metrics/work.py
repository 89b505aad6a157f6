"""What several metrics need, each part computed once and only where one asks for it."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from maskdiff_jax.evaluate.metrics.balls import Counts, count
from maskdiff_jax.evaluate.metrics.images import Images
from maskdiff_jax.evaluate.metrics.moments import Moments, moments
from maskdiff_jax.evaluate.metrics.neighbours import Nearest, nearest, others
from maskdiff_jax.evaluate.metrics.prdc import radii

T = TypeVar("T")


class Options(NamedTuple):
    """The settings of all metrics, with the usual values.

    ``k``: neighbours of precision and recall; ``k_density``: of density and coverage. ``kid_subsets`` of ``kid_size``
    features. ``splits`` of the Inception Score. ``ratio`` of d1 to d2 below which a sample is a copy. ``cells`` of the
    three-sample test, each with at least ``cell_least`` samples. ``seed`` of subsets, splits and cells.
    """

    k: int = 3
    k_density: int = 5
    kid_subsets: int = 100
    kid_size: int = 1000
    splits: int = 10
    ratio: float = 1 / 3
    cells: int = 3
    cell_least: int = 20
    seed: int = 2020


class Work:
    """The inputs of `compute` (see there) and a memory of what was computed from them."""

    def __init__(
        self,
        fake: Images,
        real: Images,
        train: np.ndarray | None,
        heldout: np.ndarray | None,
        labels: tuple[np.ndarray, np.ndarray] | None,
        options: Options,
    ):
        self.fake, self.real, self.options = fake, real, options
        self._images = {"fake": fake, "real": real}
        self._features = {"fake": fake.pool, "real": real.pool, "train": train, "heldout": heldout}
        self._labels = labels
        self._memory: dict[Hashable, Any] = {}

    def features(self, name: str) -> np.ndarray:
        """The pooled features [n, d] of "fake", "real", "train" or "heldout"."""
        return _given(self._features[name], f"features of the {name} images")

    def missing(self) -> set[str]:
        """Which of train, heldout and labels were not given."""
        given = {"train": self._features["train"], "heldout": self._features["heldout"], "labels": self._labels}
        return {name for name, value in given.items() if value is None}

    def logits(self) -> np.ndarray:
        """The logits [n, c] of the samples."""
        return _given(self.fake.logits, "logits")

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes seen in the samples, and those asked for."""
        return _given(self._labels, "labels")

    def spatial(self, name: str) -> Moments:
        """The moments of the spatial features of "fake" or "real"."""
        return _given(self._images[name].spatial, f"spatial moments of the {name} images")

    def moments(self, name: str) -> Moments:
        """The moments of the pooled features of "fake" or "real": those given, or of the features themselves."""
        given = self._images[name].moments
        if given is not None:
            return given
        return self._once(("moments", name), lambda: moments(self.features(name), f"{name} features"))

    def nearest(self, queries: str, references: str, k: int) -> Nearest:
        """The ``k`` nearest of one set for each of another; k is 1 or 2."""
        a, b = self.features(queries), self.features(references)
        most = max(k, min(2, len(b)))
        names = (f"{queries} features", f"{references} features")
        return self._once(("nearest", id(a), id(b), most), lambda: nearest(a, b, most, names)).first(k)

    def others(self, name: str, k: int) -> Nearest:
        """The ``k`` nearest others of each of a set."""
        points = self.features(name)
        most = max(k, min(len(points) - 1, max(self.options.k, self.options.k_density)))
        return self._once(("others", id(points), most), lambda: others(points, most, f"{name} features")).first(k)

    def held_by_real(self) -> Counts:
        """Samples in the balls around real images: closed ones of k neighbours, open ones of k_density."""
        k, k_density = self.options.k, self.options.k_density
        squares = radii(self.others("real", max(k, k_density)), k, k_density)
        return self._once("by real", lambda: count(self.features("fake"), self.features("real"), squares))

    def held_by_fake(self) -> Counts:
        """Real images in the closed balls around samples."""
        squares = radii(self.others("fake", self.options.k), self.options.k)
        return self._once("by fake", lambda: count(self.features("real"), self.features("fake"), squares))

    def _once(self, key: Hashable, compute: Callable[[], T]) -> T:
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise ValueError(f"{what} are needed and were not given")
    return value
