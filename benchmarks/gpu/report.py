"""Bars, and the table of a case. Needs neither JAX nor PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.peers.timing import Ratio


class Bar(NamedTuple):
    """A figure that must be at ``least`` or at ``most`` so much; ``aim``: what is hoped for. None: not measured."""

    what: str
    value: float | None
    least: float | None = None
    most: float | None = None
    aim: float | None = None

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def text(self) -> str:
        limit = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        if self.aim is not None:
            limit += f", aiming at {self.aim:g}"
        verdict = {True: "holds", False: "does not hold", None: "not judged here"}[self.holds]
        value = "-" if self.value is None else f"{self.value:.3f}"
        return f"- {self.what}: {value}, {limit}: **{verdict}**"


def format_case(
    name: str,
    title: str,
    made_with: Mapping[str, Any],
    conditions: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bars: Sequence[Bar],
    notes: Sequence[str],
) -> str:
    """Markdown: what it ran on, the table, the bars, and what is to be known beside them."""
    versions = ", ".join(f"{key} {made_with['versions'][key]}" for key in VERSIONS if made_with["versions"].get(key))
    lines = [
        f"### {name}: {title}",
        "",
        f"{made_with['device']}, {versions}; {made_with['created']}, {conditions}",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    for part in ([bar.text() for bar in bars], list(notes)):
        lines += ["", *part] if part else []
    return "\n".join(lines)


VERSIONS = ("jax", "flax", "optax", "torch", "python")


def number(value: float) -> str:
    return f"{value:,.4g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def interval(ratio: Ratio, digits: int = 2) -> str:
    return f"{ratio.median:.{digits}f} ({ratio.low:.{digits}f} to {ratio.high:.{digits}f})"
