"""Features of images, on which metrics are computed: ``FEATURES[name](**options)(given) -> Features``."""

from collections.abc import Callable

from maskdiff_jax.evaluate.features.base import Features as Features
from maskdiff_jax.evaluate.features.base import Given as Given
from maskdiff_jax.evaluate.features.base import Make as Make
from maskdiff_jax.evaluate.features.base import stream as stream
from maskdiff_jax.evaluate.features.classifier import classifier as classifier
from maskdiff_jax.evaluate.features.inception import inception as inception
from maskdiff_jax.evaluate.features.pixels import pixels as pixels

FEATURES: dict[str, Callable[..., Make]] = {"inception": inception, "classifier": classifier, "pixels": pixels}
