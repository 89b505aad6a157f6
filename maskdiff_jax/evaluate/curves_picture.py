"""Learning curves of several arms as a picture, a panel for each axis of cost."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np

from maskdiff_jax.evaluate.curves import Comparison, Curve, mean_curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito


def draw(arms: Mapping[str, Sequence[Curve]], result: Comparison, metric: str, higher: bool) -> bytes:
    """The curves as a PNG, a panel for each axis: seeds thin, their mean thick, an arm's mean best a dot.

    With two arms, a dotted line leads from the best of one to where the other reaches it.
    """
    from matplotlib.figure import Figure  # takes a while to import
    from matplotlib.ticker import EngFormatter, LogLocator, StrMethodFormatter

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    every = [curve for found in arms.values() for curve in found]
    longest = max(curve.cost["seconds"][-1] for curve in every)
    unit, seconds = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 3 * s or s == 1)
    names = {"steps": "steps", "flops": "training FLOPs (analytic)", "seconds": f"training time ({unit})"}
    for panel, (axis, name) in zip(panels, names.items(), strict=True):
        scale = seconds if axis == "seconds" else 1
        ends = [curve.cost[axis][-1] for curve in every]
        wide = max(ends) > 5 * min(ends) > 0
        for i, (label, found) in enumerate(arms.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}
            lines = [(curve.cost[axis], curve.value, {"linewidth": 0.8, "alpha": 0.45}) for curve in found]
            lines = [*(lines if len(found) > 1 else []), (*mean_curve(found, axis), {"label": label, "lw": 2})]
            for cost, value, width in lines:
                shown = cost > 0 if wide else cost >= 0  # a logarithmic axis has no 0
                panel.plot(cost[shown] / scale, value[shown], **style, **width)
            top = result.best[label]
            panel.plot(top.cost[axis] / scale, top.value.mean, "o", ms=7, color=style["color"], mec="white", zorder=3)
        for pair in result.pairs if len(arms) == 2 else []:
            start, stop = pair.axes[axis].cost, pair.axes[axis].reference
            if start is not None:
                ends, colour = [start / scale, stop / scale], COLOURS[list(arms).index(pair.other)]
                panel.plot(ends, [pair.level] * 2, ":|", linewidth=1.2, markersize=9, markevery=[0], color=colour)
        if wide:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        else:
            panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}") if axis == "seconds" else EngFormatter(sep=""))
        panel.xaxis.minorticks_off()
        panel.set_xlabel(name)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{metric}, {'higher' if higher else 'lower'} is better")
    panels[0].set_ylim(*_limits(every, higher))
    columns = max(1, min(len(arms), 150 // max(map(len, arms))))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _limits(found: Sequence[Curve], higher: bool) -> tuple[float, float]:
    """What the panels show: all but the worst tenth of the values, as the first ones would flatten the rest."""
    sign = -1 if higher else 1
    values = [sign * curve.value[np.isfinite(curve.value)] for curve in found]
    low = min(value.min() for value in values)
    high = max(np.quantile(np.concatenate(values), 0.9), *(np.median(value) for value in values))
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    low, high = sorted((sign * (low - margin), sign * (high + margin)))
    return float(low), float(high)
