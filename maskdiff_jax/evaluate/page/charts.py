"""Charts as inline SVG that follows the page: colours are the document's variables, texts are in its font."""

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.evaluate.curves_picture import COLOURS
from maskdiff_jax.evaluate.page.html import Markup, element
from maskdiff_jax.evaluate.page.numerals import tick

MOST = 400  # points of a line
SIZE = (4.4, 2.8)  # inches of 72 units: a phone shows a unit as about one pixel
INK, RULE = "#010203", "#040506"  # stand for the document's text and hairlines until `_adapted` names those
SERIES = len(COLOURS) - 1  # all but black, which a dark page would hide


class Line(NamedTuple):
    """``y`` [n] against ``x`` [n], NaN leaves a gap. ``error`` [n]: standard errors, drawn as bars.

    ``colour``: a number of COLOURS, or a colour of its own. ``faint``: behind the others and without a label.
    ``marks``: points are marked. ``steps``: ``x`` has n + 1 edges, between which y is constant.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None
    colour: int | str = 0
    faint: bool = False
    dashed: bool = False
    marks: bool = False
    steps: bool = False


class Axes(NamedTuple):
    """How a chart is scaled. ``log_x``, ``log_y``: logarithmic where all values are above 0. ``ticks``: where x is
    labelled. ``focus``: a few values far above the others may leave the frame. ``zero``: y begins at 0.
    """

    x: str = ""
    y: str = ""
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[float] = ()
    focus: bool = False
    zero: bool = False


def chart(name: str, text: str, lines: Sequence[Line], axes: Axes, levels: Mapping[str, float] | None = None) -> Markup:
    """The lines as one ``<svg>`` whose ids begin with ``name``; "" where there is nothing finite to draw.

    ``text`` is what a reader hears who does not see it. ``levels`` are horizontal lines of reference; a label of "" is
    not in the legend. The same input gives the same bytes.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return Markup()
    import matplotlib
    from matplotlib.figure import Figure  # takes a while to import

    # Texts stay texts; the salt and the date make the bytes repeatable.
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "page", "font.size": 9.5, "axes.unicode_minus": True}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font of the measuring lacks
        figure = Figure(figsize=SIZE, layout="constrained")
        panel = figure.add_subplot()
        for line in lines:
            _draw(panel, line)
        for label, level in (levels or {}).items():
            panel.axhline(level, color=INK, alpha=0.55, linewidth=1, linestyle=(0, (4, 3)), label=_plain(label))
        _scale(panel, lines, axes, list((levels or {}).values()))
        _frame(panel, axes)
        handles, labels = panel.get_legend_handles_labels()
        if len(labels) > 1:
            columns = max(1, min(4, len(labels), 44 // max(len(label) + 5 for label in labels)))
            legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
            for entry in legend.get_texts():
                entry.set(color=INK, parse_math=False)
        buffer = BytesIO()
        nothing = {key: None for key in ("Date", "Creator", "Format", "Type")}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _adapted(buffer.getvalue().decode(), name, text)


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points of a curve: the lowest and the highest of every stretch, so that no peak is lost."""
    if len(y) <= most:
        return x, y
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), (most - 2) // 2):
        finite = part[np.isfinite(y[part])]
        if len(finite):
            kept |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])}
        else:
            kept.add(int(part[0]))  # a gap stays one
    order = sorted(kept)
    return x[order], y[order]


def smooth(y: np.ndarray, width: int) -> np.ndarray:
    """The mean of the finite values among the ``width`` around each, fewer at the ends; NaN where there are none."""
    finite, box = np.isfinite(y), np.ones(2 * (width // 2) + 1)
    half = len(box) // 2
    total = np.convolve(np.where(finite, y, 0), box)[half : half + len(y)]
    count = np.convolve(finite, box)[half : half + len(y)].round()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw(panel: Any, line: Line) -> None:
    colour = line.colour if isinstance(line.colour, str) else COLOURS[line.colour % SERIES]
    style: dict[str, Any] = {"color": colour, "linewidth": 0.8 if line.faint else 1.7}
    style |= {"alpha": 0.4} if line.faint else {"label": _plain(line.label)}
    if line.dashed or (isinstance(line.colour, int) and line.colour >= SERIES):
        style["linestyle"] = (0, (5, 2))
    if line.steps:
        panel.stairs(line.y, line.x, **style)
        panel.stairs(line.y, line.x, fill=True, color=colour, alpha=0.15, linewidth=0)
    elif line.error is not None and np.isfinite(line.error).any():
        error = np.nan_to_num(line.error)
        panel.errorbar(line.x, line.y, error, marker="o", markersize=3.5, elinewidth=1, capsize=2, **style)
    else:
        marks = {"marker": "o", "markersize": 3.5} if line.marks else {}
        panel.plot(*thinned(line.x, line.y), **style, **marks)


def _scale(panel: Any, lines: Sequence[Line], axes: Axes, levels: list[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator

    x, y = np.concatenate([line.x for line in lines]), np.concatenate([line.y for line in lines])
    finite = y[np.isfinite(y)]
    both = ((panel.xaxis, panel.set_xscale, axes.log_x, x), (panel.yaxis, panel.set_yscale, axes.log_y, finite))
    for axis, rescale, logarithmic, values in both:
        if logarithmic and values.min() > 0:
            rescale("log")
            wide = values.max() > 50 * values.min()
            axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        else:
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    if axes.ticks:
        panel.xaxis.set_major_locator(FixedLocator(list(axes.ticks)))
    panel.minorticks_off()
    if axes.focus and len(finite) > 4 and panel.get_yscale() == "linear":
        low = min([finite.min(), *levels])
        high = max(np.quantile(finite, 0.9), *(np.nanmedian(line.y) for line in lines), *levels)
        if finite.max() - low > 2 * (high - low) > 0:
            panel.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    if finite.min() == finite.max() and not levels and panel.get_yscale() == "linear":
        panel.set_ylim(min(0, 2 * finite[0]), max(0, 2 * finite[0]) or 1)
    if axes.zero and panel.get_yscale() == "linear":
        panel.set_ylim(bottom=0)


def _frame(panel: Any, axes: Axes) -> None:
    panel.grid(color=RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(RULE)
    panel.tick_params(length=0, colors=INK, labelsize=9.5, pad=5)
    panel.set_xlabel(axes.x, color=INK, fontsize=9.5, parse_math=False)
    panel.set_ylabel(axes.y, color=INK, fontsize=9.5, parse_math=False)


def _plain(label: str) -> str:
    """A label as it is: matplotlib leaves out of a legend what begins with an underscore, and "" shall be."""
    return label.lstrip("_") or "_"


def _adapted(svg: str, name: str, text: str) -> Markup:
    """The ``<svg>`` alone, with ids of its own, in the colours and the font of the document around it."""
    prefix = "c" + hashlib.sha256(name.encode()).hexdigest()[:8]
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]*)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = body.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")
    for i, colour in enumerate(COLOURS[:SERIES]):
        body = body.replace(colour.lower(), f"var(--s{i})")
    body = re.sub(r">\s+<", "><", body).strip()
    return element("svg", Markup(body), viewBox=view[1] if view else None, role="img", aria_label=text)
