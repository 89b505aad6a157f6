"""The rows and tables of the comparison, from measured seconds. Needs neither JAX nor PyTorch."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers import timing

OURS = "ours"


def row(title: str, images: int, calls: int, taken: Mapping[str, Sequence[timing.Taken]]) -> dict[str, Any]:
    """The figures of one case from what each way took in each round; the peer's faster way is the one that counts.

    ``calls`` is how many steps (of training), calls (of a denoiser) or products one timing holds, each on ``images``
    images. ``ratio`` is how many times faster ours is by the clock, ``cpu_ratio`` by the processor's seconds.
    """
    wall = {name: [one.wall for one in rounds] for name, rounds in taken.items()}
    cpu = {name: [one.cpu for one in rounds] for name, rounds in taken.items()}
    peer = timing.best({name: seconds for name, seconds in wall.items() if name != OURS})
    call = {name: statistics.median(seconds) / calls for name, seconds in wall.items()}
    return {
        "title": title,
        "images": images,
        "calls": calls,
        "seconds": wall,
        "cpu_seconds": cpu,
        "seconds_per_call": call,
        "images_per_second": {name: images / seconds for name, seconds in call.items()},
        "peer": peer,
        "ratio": timing.faster(wall[OURS], wall[peer])._asdict(),
        "cpu_ratio": timing.faster(cpu[OURS], cpu[peer])._asdict(),
    }


def gflops(shape: tuple[int, int, int], found: Mapping[str, Any]) -> dict[str, float]:
    """10⁹ operations a second of each way from the row of a product (rows, inner, columns)."""
    rows, inner, columns = shape
    return {name: 2e-9 * rows * inner * columns / taken for name, taken in found["seconds_per_call"].items()}


def format_tables(
    about: Mapping[str, Any],
    versions: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
    products: Sequence[Mapping[str, Any]],
) -> str:
    """Markdown: a table of the cases, one of the matrix products, and why ways are missing."""
    coverage = min(found["ratio"]["coverage"] for found in (*cases, *products))
    made_with = f"jax {versions['jax']}, torch {about['torch']}"
    processor = " by the processor's seconds |" if about["device"] == "cpu" else ""
    lines = [
        f"{about['name']} ({about['device']}), {about['threads']} thread(s), {made_with}, {about['dtype']}; "
        f"{about['rounds']} rounds, interval of {coverage:.0%}",
        "",
    ]
    if cases:
        lines += [
            f"| case | batch | ours, images/s | eager | compiled | ours/peer (interval) |{processor}",
            f"|---|---|---|---|---|---|{'---|' * bool(processor)}",
            *(_case_line(found, bool(processor)) for found in cases),
            "",
        ]
    lines += ["| product, float32 | ours, GFLOP/s | torch | ours/torch (interval) |", "|---|---|---|---|"]
    for found in products:
        rates = found["gflops"]
        lines.append(
            f"| {found['title']} | {rates[OURS]:.0f} | {rates[found['peer']]:.0f} | {_ratio(found['ratio'])} |"
        )
    reasons = [f"{found['title']}, {name}: {why}" for found in cases for name, why in found["failures"].items()]
    return "\n".join([*lines, *(["", "Did not run:", *reasons] if reasons else [])])


def _case_line(found: Mapping[str, Any], processor: bool) -> str:
    rates = [_number(found["images_per_second"], name) for name in (OURS, "eager", "compiled")]
    ratios = [_ratio(found[name]) for name in ("ratio", "cpu_ratio")[: 1 + processor]]
    return f"| {' | '.join([found['title'], str(found['images']), *rates, *ratios])} |"


def _number(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.1f}" if name in values else "-"


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
