"""The picture of a result, from its JSON alone: a panel for each of the plan's."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from benchmarks.claims.plan import Panel
from maskdiff_jax.evaluate.curves import Curve, mean_curve, summary
from maskdiff_jax.evaluate.curves_picture import COLOURS

AXES = {"steps": "steps", "flops": "training FLOPs", "seconds": "training time (s)"}


def draw(result: Mapping[str, Any], panels: Sequence[Panel]) -> bytes:
    """The panels of a claim as a PNG."""
    from matplotlib.figure import Figure  # takes a while to import

    figure = Figure(figsize=(4.6 * len(panels), 3.9), layout="constrained")
    for place, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        PANELS[panel.kind](place, panel, result["arms"])
        if panel.log:
            place.set_yscale("log")
    legends = (zip(*place.get_legend_handles_labels(), strict=True) for place in figure.axes)
    handles = {label: handle for legend in legends for handle, label in legend}
    if handles:
        columns = max(1, min(len(handles), 60 * len(panels) // max(map(len, handles))))
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def curves(place: Any, panel: Panel, arms: Mapping[str, Any]) -> None:
    """A figure along training against a cost: the mean over seeds."""
    for i, (name, arm) in enumerate(arms.items()):
        found = [_curve(one) for one in arm["curves"].get(panel.figure, [])]
        if found:
            place.plot(*mean_curve(found, panel.x), **_style(i), label=name, linewidth=1.5)
    _label(place, AXES[panel.x], panel.figure)


def points(place: Any, panel: Panel, arms: Mapping[str, Any]) -> None:
    """A figure against the ``x`` of the arms, or their supervised elements per batch: a line for each ``line``."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for arm in arms.values():
        x = arm["supervised"][-1] if panel.x == "supervised" else arm["x"]
        values = arm["figures"].get(panel.figure)
        if x is not None and values:
            mean, half, _ = summary([float(v) for v in values])
            lines.setdefault(arm["line"], []).append((x, mean, half or 0.0))
    for i, (label, found) in enumerate(lines.items()):
        x, mean, half = zip(*sorted(found), strict=True)
        place.errorbar(x, mean, yerr=half, **_style(i), marker="o", markersize=4, capsize=3, label=label)
    if panel.x == "supervised":
        place.set_xscale("log")
    _label(place, "supervised elements per batch" if panel.x == "supervised" else panel.x, panel.figure)


def bars(place: Any, panel: Panel, arms: Mapping[str, Any]) -> None:
    """A figure of every arm at its end."""
    kept = {name: arm["figures"][panel.figure] for name, arm in arms.items() if panel.figure in arm["figures"]}
    found = [summary([float(v) for v in values]) for values in kept.values()]
    heights = [np.arange(len(found)), [one.mean for one in found]]
    half = [one.half_width or 0.0 for one in found]
    place.barh(*heights, xerr=half, color=[COLOURS[i % len(COLOURS)] for i in range(len(found))], capsize=3, alpha=0.8)
    place.set_yticks(range(len(found)), list(kept), fontsize=8)
    place.invert_yaxis()
    _label(place, panel.figure, "")


def series(place: Any, panel: Panel, arms: Mapping[str, Any]) -> None:
    """Figures "name@1", "name@2", … of every arm against that number."""
    for i, (name, arm) in enumerate(arms.items()):
        found = {
            float(key.rpartition("@")[2]): [float(v) for v in values]
            for key, values in arm["figures"].items()
            if key.rpartition("@")[0] == panel.figure
        }
        if found:
            x = sorted(found)
            place.plot(x, [np.mean(found[at]) for at in x], **_style(i), marker="o", markersize=3, label=name)
    if panel.x != "t":
        place.set_xscale("log")
    _label(place, panel.x, panel.figure)


def maps(place: Any, panel: Panel, arms: Mapping[str, Any]) -> None:
    """Maps [h, w] side by side, the root of each over its largest value; an arm each."""
    found = {name: arm["maps"].get(panel.figure) for name, arm in arms.items()}
    kept = {name: np.array(one, float) for name, one in found.items() if one is not None}
    if kept:
        shown = [np.pad(np.sqrt(one / max(one.max(), 1e-30)), 1, constant_values=1) for one in kept.values()]
        place.imshow(np.concatenate(shown, axis=1), cmap="gray", vmin=0, vmax=1)
    place.set_title(", ".join(kept), fontsize=7)
    place.set_axis_off()


PANELS = {"curves": curves, "points": points, "bars": bars, "series": series, "maps": maps}


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}


def _curve(found: Mapping[str, Any]) -> Curve:
    return Curve({axis: np.array(found[axis], float) for axis in AXES}, np.array(found["value"], float))


def _label(place: Any, x: str, y: str) -> None:
    place.set_xlabel(x)
    place.set_ylabel(y)
    place.grid(color="0.9", linewidth=0.8)
    place.set_axisbelow(True)
    place.spines[["top", "right"]].set_visible(False)
