"""A comparison of learning curves in Markdown: tables, and a sentence for every two arms."""

from collections.abc import Mapping, Sequence

import numpy as np

from maskdiff_jax.evaluate.curves import AXES, UNITS, Comparison, Pair, Reach, Summary


def tables(result: Comparison, inherited: Mapping[str, str]) -> str:
    """The comparison as three Markdown tables; ``inherited`` says what of its costs an arm has from pre-training."""
    to_best = [[number(best.cost[axis]) for axis in AXES] for best in result.best.values()]
    blocks = [
        _table(
            ["arm", "seeds", "best", "steps to it", "FLOPs to it", "seconds to it", "inherited"],
            [
                [label, str(len(best.value.seeds)), _measured(best.value), *costs, inherited[label]]
                for (label, best), costs in zip(result.best.items(), to_best, strict=True)
            ],
        ),
        _table(
            ["at equal", "budget", *result.best],
            [
                [UNITS[axis], number(equal.budget), *map(_measured, equal.arms.values())]
                for axis, equal in result.equal.items()
            ],
        ),
    ]
    if any(np.isnan(value.mean) for equal in result.equal.values() for value in equal.arms.values()):
        blocks.append("–: no value yet at this budget, or none that is finite.")
    if result.pairs:
        rows = [
            [p.arm, f"{p.other}: {p.level:.4g}", f"{p.reached} of {p.seeds}", *map(_factors, p.axes.values())]
            for p in result.pairs
        ]
        header = ["arm", "reaches the best of", "seeds", *(f"by {unit}" for unit in UNITS.values())]
        blocks.append(_table(header, rows))
    return "\n\n".join(blocks)


def verdict(result: Comparison) -> list[str]:
    """A sentence in Markdown for every two arms: which reaches the other's best value, and how much sooner."""
    by_arms = {(pair.arm, pair.other): pair for pair in result.pairs}
    sentences = []
    for there, back in ((pair, by_arms[pair.other, pair.arm]) for pair in result.pairs):
        if list(result.best).index(there.arm) < list(result.best).index(there.other):
            first, second = sorted((there, back), key=lambda pair: -pair.reached / pair.seeds)
            sentences.append(f"{_clause(first)}; {_clause(second)}.")
    return sentences


def _clause(pair: Pair) -> str:
    target = f"the best of **{pair.other}** ({pair.level:.4g})"
    if not pair.reached:
        return f"**{pair.arm}** never reaches {target}"
    steps, flops, seconds = (_sooner(reach, UNITS[axis]) for axis, reach in pair.axes.items())
    some = f", in {pair.reached} of its {pair.seeds} seeds" if pair.reached < pair.seeds else ""
    return f"**{pair.arm}** reaches {target} with {steps}, {flops} and {seconds}{some}"


def _sooner(reach: Reach, unit: str) -> str:
    """ "1.80× fewer steps (500 against 900)"."""
    costs = f"({number(reach.cost)} against {number(reach.reference)})"
    factor = reach.factor or 0.0
    if 0.995 <= factor < 1.005:
        return f"as many {unit} {costs}"
    if factor > 1:
        return f"{_ratio(factor)} fewer {unit} {costs}" if np.isfinite(factor) else f"no {unit} {costs}"
    return f"{_ratio(1 / factor)} more {unit} {costs}" if factor else f"more {unit} {costs}"


def _factors(reach: Reach) -> str:
    found = [factor for factor in reach.factors if factor is not None]
    if reach.factor is None:
        return "never"
    spread = f" ({_ratio(min(found))} to {_ratio(max(found))})" if len(found) > 1 else ""
    return _ratio(reach.factor) + spread


def _ratio(factor: float) -> str:
    return "∞" if np.isinf(factor) else f"{factor:.0f}×" if factor >= 100 else f"{factor:.3g}×"


def _measured(summary: Summary) -> str:
    if np.isnan(summary.mean):
        return "–"
    return f"{summary.mean:.4g}" + ("" if summary.half_width is None else f" ± {summary.half_width:.2g}")


def number(value: float | None) -> str:
    """A cost as tables show it: 1234.5 is '1,234', 1.5e+15 '1.5e15'."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if 100 <= value < 1e7 or value == int(value) < 1e7 else f"{value:.3g}"
    return text.replace("e+", "e")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
    )
