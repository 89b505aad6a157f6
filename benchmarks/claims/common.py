"""What several claims share: the small network, figures that need a trained network, and relations between arms."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.claims.judge import View
from benchmarks.claims.plan import Figures
from benchmarks.claims.verdicts import Row
from maskdiff_jax import inference
from maskdiff_jax.data import to_float
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.evaluate.bias import make_bias, middle_times
from maskdiff_jax.evaluate.consistency import violation_rates, violations
from maskdiff_jax.evaluate.context import make_context
from maskdiff_jax.evaluate.curves import reach
from maskdiff_jax.types import Denoiser, Params

SMALL: dict[str, Any] = {  # 16 tokens, 0.25 M parameters on digits
    "batch": 64,
    "model": {"name": "dit", "patch": 2, "width": 64, "depth": 3, "heads": 4},
    "schedule": {"warmup": 50},
    "sample": {"steps": 15},
}
TINTED = {"data": {"name": "digits", "tint": True}}
QUALITY = ("fid", "precision", "recall", "class_accuracy")


def rule_of(text: str | None) -> str:
    """The paragraph of a docstring that begins with "Rule: ", without that word, on one line."""
    _, found, rest = (text or "").partition("Rule: ")
    if not found:
        raise ValueError("a claim states its rule in its docstring, after 'Rule: '")
    return " ".join(rest.partition("\n\n")[0].split())


def denoiser_of(view: View) -> Callable[[Params], Denoiser]:
    """The denoiser of a view as diagnoses take it, unclipped and without guidance."""
    e = view.experiment
    return lambda params: make_denoiser(e.model, params, e.process, e.prediction, e.inputs, None, e.phase)


def bias_by_level(view: View) -> Figures:
    """ "offset@t": the mean over channels of the absolute offset of x̂; "mse x@t"; and their means over the levels."""
    e, count = view.experiment, min(view.plan.samples, 256)
    data = inference.read(e, e.dataset.heldout, min(count, len(e.dataset.heldout)))
    times = middle_times(e.process, e.config.evaluate.levels, e.heldout_times)
    levels = make_bias(denoiser_of(view), e.process, times, batch_size=len(data.image))(view.params, data)
    offsets = [float(np.mean(np.abs(level.offset))) for level in levels]
    found = {f"offset@{level.t:.3f}": offset for level, offset in zip(levels, offsets, strict=True)}
    found |= {f"mse x@{level.t:.3f}": level.mse_x for level in levels}
    return found | {"offset": float(np.mean(offsets)), "mse x": float(np.mean([level.mse_x for level in levels]))}


def consistency(view: View) -> Figures:
    """The rates of the rule of the data, and how far a pixel of x̂ looks.

    "broken": the share of samples that do not obey readably. "outside" and "distance": of the gradient of a pixel in
    the left half, as `make_context` has them, mean over t; "context" its map at the middle t.
    """
    e, data = view.experiment, view.experiment.dataset
    found: Figures = dict(violation_rates(violations(data.rule)(to_float(view.sample()))))
    rate, unreadable = found["violation_rate"], found["unreadable_rate"]
    found["broken"] = 1.0 if rate is None else 1 - (1 - unreadable) * (1 - rate)
    images = inference.read(e, data.heldout, min(32, view.plan.samples))
    times, (h, w, _) = middle_times(e.process, 4, e.heldout_times), e.image_shape
    measure = make_context(denoiser_of(view), e.process, times, [(h // 2, w // 4)], batch_size=len(images.image))
    levels = measure(view.params, images)
    found |= {name: float(np.mean([getattr(level, name) for level in levels])) for name in ("outside", "distance")}
    found |= {f"outside@{level.t:.3f}": level.outside for level in levels}
    return found | {"context": levels[len(levels) // 2].map.tolist()}


def steps_to(rows: Mapping[str, Row], reference: str, figure: str, level: str) -> None:
    """Adds "steps to LEVEL" to every arm: its own steps until ``figure`` is as low as the mean ``level`` of
    ``reference``, inherited ones left out; all of its steps where it never is."""
    target = float(np.mean(rows[reference].figures[level]))
    for row in rows.values():
        found = []
        for curve, whole in zip(row.curves[figure], row.curves["heldout loss"], strict=True):
            point = reach(curve, target)
            start = float(whole.cost["steps"][0])
            found.append((float(curve.cost["steps"][-1]) if point is None else point["steps"]) - start)
        row.figures[f"steps to {reference}'s {level}"] = found
