"""One judge for all runs of a claim: the same features, real images, samples' noise and sampler."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import controls
from benchmarks.claims.plan import Arm, Plan
from maskdiff_jax import inference
from maskdiff_jax.build import Experiment
from maskdiff_jax.data import DATASETS, Source, held_out, to_uint8
from maskdiff_jax.evaluate.features import FEATURES, Given
from maskdiff_jax.evaluate.image_sets import in_memory
from maskdiff_jax.evaluate.scorer import make_scorer
from maskdiff_jax.parts import part
from maskdiff_jax.types import Cond, Params

Labelled = tuple[np.ndarray, np.ndarray | None]
DRAW = 250  # images a call of the sampler
CLASSIFIER = {"steps": 1000, "width": 32}
SMOKE_CLASSIFIER = {"steps": 3, "width": 4}


class View(NamedTuple):
    """A trained network as it is measured: ``params`` are averages. ``plan`` says how, ``arm`` which it is."""

    experiment: Experiment
    params: Params
    arm: Arm
    plan: Plan
    tools: "Tools"

    def metrics(self, names: tuple[str, ...]) -> dict[str, float]:
        """Image metrics of ``plan.samples`` samples; sample i has the same noise and condition in all arms."""
        return self.tools.score(self, names, self.sample())

    def sample(self, steps: int | None = None, count: int | None = None) -> np.ndarray:
        """The first ``count`` (``plan.samples``) samples, uint8, with ``steps`` sampling steps (the config's)."""
        count = count or self.plan.samples
        return to_uint8(self.tools.draw(self, steps, count))


class Tools:
    """Compiled samplers and scorers, shared by all that need the same.

    ``folder`` keeps the features' classifiers. ``smoke``: a classifier of a moment (pixels where a metric needs none),
    and nothing is forgotten.
    """

    def __init__(self, folder: Path, smoke: bool = False):
        self.folder, self.smoke = folder, smoke
        self._scorers: dict[str, Callable[..., Any]] = {}
        self._samplers: dict[str, Callable[..., np.ndarray]] = {}
        self._made: dict[str, Any] = {}

    def forget(self) -> None:
        """Free what was compiled: a long campaign compiles a few hundred programs."""
        if not self.smoke:
            self._samplers.clear()
            jax.clear_caches()

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was first asked for under this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def draw(self, view: View, steps: int | None, count: int) -> np.ndarray:
        """``count`` samples in [-1, 1] from the noise of seed 0."""
        e = view.experiment
        return self.sampler(view, steps, count)(view.params, count, conditions(e, count), 0)

    def sampler(self, view: View, steps: int | None, count: int) -> Callable[..., np.ndarray]:
        """`inference.generator` of the view's network, for ``count`` images and more."""
        e = view.experiment
        section = inference.with_settings(e.config.sample, steps, None, None)
        parts = ("data", "augment", "codec", "process", "shift", "prediction", "inputs", "model", "condition")
        key = repr([e.config[name] for name in parts]) + repr(section.to_dict())
        if key not in self._samplers:
            self._samplers[key] = inference.generator(e, section, min(count, DRAW))
        return self._samplers[key]

    def score(self, view: View, names: tuple[str, ...], samples: np.ndarray) -> dict[str, float]:
        """The metrics ``names`` of samples uint8 [n, h, w, c]."""
        e, plan = view.experiment, view.plan
        key = repr((e.config.data.to_dict(), e.config.augment.to_dict(), names))
        if key not in self._scorers:
            self._scorers[key] = self._scorer(e, plan, names)
        labels = inference.labels_for(e, None, len(samples))
        return {name: float(v) for name, v in self._scorers[key](in_memory("samples", samples, labels)).values.items()}

    def _scorer(self, e: Experiment, plan: Plan, names: tuple[str, ...]) -> Callable[..., Any]:
        train, heldout = (rendered(e, source, seed) for seed, source in enumerate((e.dataset.train, e.dataset.heldout)))
        sets = [in_memory(name, found[0]) for name, found in (("train", train), ("held out", heldout))]
        real = sets[0] if plan.reference == "train" else sets[1]
        whole = all_classes(e)
        sources = enumerate((whole.dataset.train, whole.dataset.heldout))
        learn, test = (partial(rendered, whole, source, seed) for seed, source in sources)
        settings = SMOKE_CLASSIFIER if self.smoke else CLASSIFIER
        learned = e.dataset.classes and ("class_accuracy" in names or not self.smoke)
        make = FEATURES["classifier"](**settings) if learned else FEATURES["pixels"]()
        features = make(Given(e.image_shape, train=learn, heldout=test, cache=self.folder))
        return make_scorer(names, features, real, train=sets[0], heldout=sets[1])


def all_classes(e: Experiment) -> Experiment:
    """The experiment with all classes and images of its data set, on which features are learned."""
    options = {k: v for k, v in e.config.data.to_dict().items() if k not in ("classes", "limit")}
    return e if options == e.config.data.to_dict() else e._replace(dataset=part("data", DATASETS, ConfigDict(options)))


def rendered(e: Experiment, source: Source, seed: int) -> Labelled:
    """All images of a source as training has them, uint8 [n, h, w, c], with controls drawn once, and their labels."""
    if e.config.condition.controls_high:
        images, labels, _ = controls.real(e, source, 1, seed)
        return to_uint8(images), labels
    data = held_out(source, e.augment)
    label = data.cond.label
    return to_uint8(np.asarray(data.image)), None if label is None else np.asarray(label)


def conditions(e: Experiment, count: int) -> Cond:
    """Labels in turn, and controls as the data have them where the network takes controls."""
    labels = inference.labels_for(e, None, count)
    if not e.config.condition.controls_high:
        return inference.condition(e, labels, count)
    assert labels is not None
    return controls.given(e, labels, controls.draw_controls(e, count, 4))
