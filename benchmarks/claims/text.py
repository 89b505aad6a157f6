"""The Markdown of a result, from its JSON alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from maskdiff_jax.evaluate.curves import summary


def markdown(result: Mapping[str, Any]) -> str:
    """The page of one claim: verdict, tests, the table of arms, the picture and where it all comes from."""
    about = result["provenance"]
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items() if name in ("python", "jax", "flax"))
    small = " **A smoke version: the figures mean nothing.**" if result["smoke"] else ""
    blocks = [
        f"# {result['question']}",
        f"**{result['verdict'][0].upper()}{result['verdict'][1:]}.** {result['source']}.{small}",
        f"Rule, written before any run: {result['rule']}",
        tests(result["tests"]),
        f"Figures are of {result['samples']} samples of the averaged weights, ± is the 95 % interval over "
        f"{result['seeds']} seed{'s' if result['seeds'] > 1 else ''} (Student's t); FLOPs are analytic, and costs "
        "include what a run inherited.",
        arms(result),
    ]
    if result["noise"]:
        blocks.append(noise(result["noise"]))
    if result["note"]:
        blocks.append(result["note"])
    blocks.append(f"![The figures]({result['claim']}{'' if result['budget'] == 'cpu' else '_gpu'}.png)")
    blocks.append(
        f"`{result['command']}`, {about['created'][:10]}, {about['devices']} x {about['device']}, {versions}, "
        f"revision {(about['revision'] or 'unknown')[:12]}."
    )
    return "\n\n".join(blocks) + "\n"


def tests(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each test: what is asked, the estimate with its interval, and the outcome."""
    lines = ["| test | estimate | 95 % interval | outcome |", "|---|---|---|---|"]
    for test in found:
        cells = [test["statement"], number(test["estimate"]), interval(test), test["outcome"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arms(result: Mapping[str, Any]) -> str:
    """A row for each arm: what it cost, and its figures."""
    names = ["arm", "steps", "batch", "supervised elements per batch", "FLOPs", "seconds", *result["columns"]]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for name, arm in result["arms"].items():
        cells = [
            name,
            f"{arm['steps']:,}",
            ", then ".join(f"{batch:,}" for batch in arm["batch"]),
            ", then ".join(f"{count:,.0f}" for count in arm["supervised"]),
            f"{summary(arm['flops']).mean:.3g}",
            f"{summary(arm['seconds']).mean:,.0f}",
            *(measured(arm["figures"].get(column, [])) for column in result["columns"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def noise(found: Mapping[str, Any]) -> str:
    """How the batches of the noise-matched controls were found, and how well they match."""
    lines = [
        "Gradient noise (variance of one step's gradient, in the middle of the dense run of seed 0):",
        "",
        "| control | batch | before rounding | dense at the full batch | sparse | dense at the cut batch |",
        "|---|---|---|---|---|---|",
    ]
    for name, match in found.items():
        values = (match[key] for key in ("exact", "dense", "sparse", "reached"))
        lines.append(f"| {' | '.join([name, str(match['batch']), *(f'{v:.3g}' for v in values)])} |")
    return "\n".join(lines)


def measured(values: Sequence[Any]) -> str:
    """ "1.23 ± 0.45": mean and half of the 95 % interval; a dash where there is nothing."""
    numbers = [float("nan") if value is None else float(value) for value in values]
    if not numbers or any(value != value for value in numbers):
        return "–"
    found = summary(numbers)
    return number(found.mean) + ("" if found.half_width is None else f" ± {found.half_width:.2g}")


def interval(test: Mapping[str, Any]) -> str:
    """ "0.81 to 1.07", or a dash."""
    return "–" if test["low"] is None else f"{number(test['low'])} to {number(test['high'])}"


def number(value: Any) -> str:
    return "–" if value is None else f"{float(value):.3g}"
