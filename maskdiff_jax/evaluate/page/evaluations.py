"""Evaluations of a run on features: a table of all, and sweeps over guidance and steps."""

from collections.abc import Sequence

import numpy as np

from maskdiff_jax.evaluate.page.charts import Axes, Line, chart
from maskdiff_jax.evaluate.page.html import Markup, element, figure, figures, join, note, table
from maskdiff_jax.evaluate.page.known import SPREAD, good, known, paired, sentence
from maskdiff_jax.evaluate.page.numerals import DASH, measured, show
from maskdiff_jax.evaluate.page.read import Evaluation, Run, number
from maskdiff_jax.evaluate.page.settings import facts, grouped, keys, labels, varying, worded

SHOWN = ("step", "sampler", "steps", "guidance", "features", "images")  # facts that have a column where all agree, too
# The setting that a sweep varies -> its axis, and how a sentence names a value of it.
SWEPT = {
    "guidance": (Axes("guidance scale"), "guidance {:g}"),
    "steps": (Axes("sampling steps", log_x=True), "{:g} steps"),
}


def overview(run: Run) -> Markup:
    """Every evaluation, the newest last: what differs, the metrics, and what else there is to know."""
    found = run.evaluations
    if not found:
        return Markup()
    every = [facts(evaluation) for evaluation in found]
    different = varying(found)
    same = [name for name in keys(every) if name not in different and not name.startswith("features.")]
    metrics = metric_names(found)
    titles = [known(name).title + _arrow(name) for name in metrics]
    shown = [name for name in same if name in SHOWN]
    columns = [*different, *titles, *shown, "images/s", "measured", "folder"]
    rows = [
        (
            *(worded(fact.get(name)) for name in different),
            *(measured(e.values.get(name), e.values.get(name + SPREAD)) for name in metrics),
            *(worded(fact[name]) for name in shown),
            show(e.rate),
            element("time", e.created[:16].replace("T", " ") or DASH),
            element("code", e.name),
        )
        for e, fact in zip(found, every, strict=True)
    ]
    texts = [i for i, name in enumerate(columns) if any(isinstance(fact.get(name), str) for fact in every)]
    texts += [len(columns) - 2, len(columns) - 1]
    rest = [f"{name} {worded(every[0][name])}" for name in same if name not in SHOWN]
    quiet = note(f"All with {', '.join(rest)}.") if rest else ""
    arrows = note("↓ lower is better, ↑ higher is better; ± is the deviation over subsets of the samples.")
    return join([table(columns, rows, texts, label="Evaluations"), quiet, arrows])


def sweeps(run: Run) -> Markup:
    """A chart of each metric against what a sweep varies, where two or more evaluations differ in nothing else."""
    blocks = []
    for key, (axes, place) in SWEPT.items():
        drawn = [_sweep(run.evaluations, key, metric, axes, place) for metric in metric_names(run.evaluations)]
        if any(drawn):
            blocks += [element("h3", f"Over {key}"), figures(*drawn)]
    return join(blocks)


def _sweep(evaluations: Sequence[Evaluation], key: str, metric: str, axes: Axes, place: str) -> Markup:
    groups = [
        g for g in grouped([e for e in evaluations if np.isfinite(number(e.values.get(metric)))], key) if len(g) > 1
    ]
    about = known(metric)
    named = labels([next(iter(group.values())) for group in groups], key)
    lines = []
    for i, (group, label) in enumerate(zip(groups, named, strict=True)):
        value, spread = (
            np.array([number(e.values.get(name)) for e in group.values()]) for name in (metric, metric + SPREAD)
        )
        lines.append(Line(label, np.array(list(group)), value, error=spread, colour=i, marks=True))
    ticks = sorted({x for group in groups for x in group})
    axes = axes._replace(ticks=ticks if len(ticks) <= 8 else ())
    drawn = chart(f"sweep-{key}-{metric}", f"{about.title} against {key}", lines, axes)
    told = [
        sentence(about.describes),
        good(about.better),
        _best(lines, about.better, place),
    ]
    return figure(drawn, about.title, " ".join(filter(None, told))) if drawn else drawn


def metric_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics of all evaluations; deviations are shown beside theirs."""
    return list(paired(dict.fromkeys(keys(e.values for e in evaluations))))


def _best(lines: Sequence[Line], better: str, place: str) -> str:
    values = np.concatenate([line.y for line in lines] or [np.zeros(0)])
    if not better or len(np.unique(values)) < 2:
        return ""
    sign = -1 if better == "higher" else 1
    line = min(lines, key=lambda line: np.nanmin(sign * line.y))
    i = int(np.nanargmin(sign * line.y))
    return f"Best: {show(line.y[i])} at {place.format(line.x[i])}" + (f" ({line.label})." if line.label else ".")


def _arrow(name: str) -> str:
    return {"lower": " ↓", "higher": " ↑", "": ""}[known(name).better]
