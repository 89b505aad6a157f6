"""The sections of the page, in their order. A new one is one function and its line in `SECTIONS`."""

from collections.abc import Callable

from maskdiff_jax.evaluate.page import diagnostics, evaluations, overview, pictures, training
from maskdiff_jax.evaluate.page.html import Markup
from maskdiff_jax.evaluate.page.read import Run

# Anchor -> title, and what makes the section of a run: "" where there is nothing to show.
SECTIONS: dict[str, tuple[str, Callable[[Run], Markup]]] = {
    "figures": ("Figures", overview.headline),
    "samples": ("Samples", pictures.samples),
    "training": ("Training", training.curves),
    "levels": ("Loss by noise level", training.levels),
    "quality": ("Quality through training", training.quality),
    "evaluations": ("Evaluations", evaluations.overview),
    "sweeps": ("Sweeps", evaluations.sweeps),
    "neighbours": ("Nearest neighbours", pictures.neighbours),
    "masks": ("Masks", pictures.masks),
    "bias": ("Bias and colour", diagnostics.bias),
    "context": ("Context", diagnostics.context),
    "throughput": ("Throughput", training.throughput),
    "configuration": ("Configuration", overview.configuration),
    "provenance": ("Provenance", overview.provenance),
}
