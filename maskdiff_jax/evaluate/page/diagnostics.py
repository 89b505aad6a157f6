"""What the model gets wrong on average, how its colours depend on the steps, and how far it looks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskdiff_jax.evaluate.page.charts import Axes, Line, chart
from maskdiff_jax.evaluate.page.html import Markup, figure, figures, join, note
from maskdiff_jax.evaluate.page.numerals import whole
from maskdiff_jax.evaluate.page.pictures import picture
from maskdiff_jax.evaluate.page.read import Run, is_number, number, numbers, records

TIME = Axes("t (0 is data, 1 is noise)")
ZERO = {"": 0.0}
RGB = (("red", 1), ("green", 2), ("blue", 0))  # names of three channels, and their colours


def bias(run: Run) -> Markup:
    """Errors and offsets by noise level; the colours of samples by their number of steps."""
    levels, shifts = records(run.diagnostics.get("bias")), records(run.diagnostics.get("colour_shift"))
    by_t, by_steps = numbers([level.get("t") for level in levels]), numbers([shift.get("steps") for shift in shifts])
    steps = Axes("sampling steps", log_x=True, ticks=by_steps.tolist() if len(by_steps) <= 8 else ())
    errors = [
        Line(label, by_t, *_with_error(levels, key), colour=i, marks=True)
        for i, (label, key) in enumerate({"of x̂, the image": "mse_x", "of ε̂, the noise": "mse_eps"}.items())
    ]
    shift = _channels(shifts, by_steps, "shift")
    if len(shift) > 1:  # grey images have no chroma
        shift.append(Line("chroma", by_steps, *_with_error(shifts, "chroma"), colour=5, dashed=True))
    drawn = figures(
        _figure("errors", errors, TIME._replace(log_y=True), "Squared errors",
                "Of what the model believes image and noise to be, by noise level; low is good."),
        _figure("offsets", _channels(levels, by_t, "offset"), TIME, "Offset of x̂",
                "Mean of x̂ − x in each channel, with standard errors; 0 is good, an offset tints images.", ZERO),
        _figure("shift", shift, steps, "Colour shift by steps",
                "How far the mean colour is from that of the most steps, from the same noise; low is good."),
        _figure("shift-offset", _channels(shifts, by_steps, "offset"), steps, "Colour of samples",
                "Channel means of samples less those of real images, with standard errors; 0 is good.", ZERO),
    )  # fmt: skip
    return join([drawn, _settings(run)]) if drawn else drawn


def context(run: Run) -> Markup:
    """How far the model looks: what an output pixel depends on."""
    entries = records(run.diagnostics.get("context"))
    pixels = list(dict.fromkeys(str(entry.get("pixel")) for entry in entries))

    def lines(key: str) -> list[Line]:
        found = []
        for i, pixel in enumerate(pixels):
            own = [entry for entry in entries if str(entry.get("pixel")) == pixel]
            t = numbers([entry.get("t") for entry in own])
            found.append(Line(f"pixel {pixel[1:-1]}", t, *_with_error(own, key), colour=i, marks=True))
        return found

    path = run.pictures.get("diagnostics/context.png")
    image = picture(path, "Maps of what one output pixel depends on") if path else ""
    sentence = "What an output pixel depends on, by noise level; a wide map is a model that sees the whole image."
    maps = figures(figure(image, "Maps", sentence), kind="lead") if image else ""
    charts = figures(
        _figure("context-distance", lines("distance"), TIME._replace(zero=True), "Context distance",
                "Mean distance, in pixels, of what a pixel depends on; it should grow with the noise."),
        _figure("context-outside", lines("outside"), TIME._replace(zero=True), "Share of far pixels",
                "Share of the dependence outside a small window around the pixel."),
    )  # fmt: skip
    return join([maps, charts])


def _figure(
    name: str, lines: Sequence[Line], axes: Axes, title: str, sentence: str, levels: Mapping[str, float] | None = None
) -> Markup:
    drawn = chart(f"diagnostics-{name}", title, lines, axes, levels)
    return figure(drawn, title, sentence) if drawn else drawn


def _with_error(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    return numbers([entry.get(key) for entry in entries]), numbers([entry.get(f"{key}_error") for entry in entries])


def _channels(entries: Sequence[Mapping[str, Any]], x: np.ndarray, key: str) -> list[Line]:
    """A line for each channel of an entry that is a list."""
    values, errors = ([numbers(entry.get(name)) for entry in entries] for name in (key, f"{key}_error"))
    count = max(map(len, values), default=0)
    named = {1: [("mean", 0)], 3: RGB}.get(count, [(f"channel {i}", i) for i in range(count)])

    def at(found: Sequence[np.ndarray], i: int) -> np.ndarray:
        return np.array([entry[i] if i < len(entry) else np.nan for entry in found])

    return [Line(label, x, at(values, i), at(errors, i), colour, marks=True) for i, (label, colour) in enumerate(named)]


def _settings(run: Run) -> Markup:
    found = run.diagnostics
    counted = [
        f"{whole(found[key])} {name}"
        for key, name in (("images", "images"), ("samples", "samples"))
        if is_number(found.get(key))
    ]
    place = f"Step {whole(found['step'])}" if np.isfinite(number(found.get("step"))) else "Measured"
    sampler = [f"sampler {found['sampler']}"] if found.get("sampler") else []
    return note(", ".join([place, *counted, *sampler]) + ".")
