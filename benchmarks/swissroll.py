"""Does a primer help on the Swiss roll? `swissroll_maskdm` against training from scratch, by seeds.

    python -m benchmarks.swissroll --out=DIR [--seeds=5 --config.batch=…]

The target is a sliced Wasserstein distance of 1.5 times that between two fresh sets of 10,000 points. Both arms train
for about as many FLOPs in all. For every seed: steps, FLOPs and seconds until a run is first at or below the target,
linear between measurements, with pre-training and without; and the distance of both arms at equal FLOPs. DIR gets the
runs, swissroll.json, swissroll.md, swissroll.png (densities of the data, the primer and both arms) and, in compare/,
the equal-compute report. Interrupted, the same command goes on.

Every measurement of a run starts from the same 10,000 noises and is against all real points of the data set, so what
chance adds is nearly the same all along a run: "first at or below" is one trial for each seed, not one for each
measurement. A fresh set of points in place of the samples (`floor`) says how a perfect model would read.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import runs
from benchmarks.runs import Run
from maskdiff_jax import inference
from maskdiff_jax.compare import read_run
from maskdiff_jax.data import to_float
from maskdiff_jax.data.swissroll import FRESH_DISTANCE, GAP, SIDE, points, swissroll
from maskdiff_jax.evaluate.curves import AXES, UNITS, Curve, Summary, reach, summary, value_at
from maskdiff_jax.evaluate.grid import save_png
from maskdiff_jax.evaluate.sliced import sliced_wasserstein
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.provenance import provenance

METRIC = "quality/sliced_wasserstein"
TARGET = 1.5 * FRESH_DISTANCE
PARTS = (0.5, 0.75, 1.0)  # of the largest budget of FLOPs that all runs have
ARMS = {"scratch": ("--config.stages=()", "--config.steps=2400"), "maskdm": ()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options, changes = parser.parse_known_args(argv)

    config = "--config=configs/swissroll_maskdm.py"
    arms = {arm: runs.seeds(options.out / arm, (config, *own, *changes), options.seeds) for arm, own in ARMS.items()}
    runs.execute(run for pair in zip(*arms.values(), strict=True) for run in pair)
    labels = [arm for arm, found in arms.items() for _ in found]
    ordered = [run for found in arms.values() for run in found]
    runs.compare(ordered, METRIC, options.out / "compare", "--label", *labels)

    settings = inference.read_config(arms["maskdm"][0].workdir)
    edge = sum(stage["steps"] for stage in settings.stages[:-1])
    lines = {arm: [read_run(run.workdir, METRIC).curve for run in found] for arm, found in arms.items()}
    found = measure(lines, edge, TARGET) | {"floor": floor(settings.data)._asdict()}
    about = {"seeds": options.seeds, "changes": changes, "metric": METRIC, "pre-training": edge} | found
    write_json(options.out / "swissroll.json", about | {"provenance": provenance(about)})
    save_densities(options.out / "swissroll.png", arms, lines, edge)
    text = format_tables(found)
    write_atomically(options.out / "swissroll.md", text.encode())
    print(text, end="")


def measure(arms: Mapping[str, Sequence[Curve]], edge: float, target: float) -> dict[str, Any]:
    """All figures of the curves of both arms; pre-training of "maskdm" ends at step ``edge``."""
    scratch, maskdm = arms["scratch"], arms["maskdm"]
    counted = {
        "scratch": scratch,
        "maskdm, pre-training included": maskdm,
        "maskdm, pre-training excluded": [after(curve, edge) for curve in maskdm],
    }
    budget = min(float(curve.cost["flops"][-1]) for curve in (*scratch, *maskdm))
    equal = [
        {"flops": part * budget}
        | {
            arm: summary([float(value_at(c, "flops", part * budget)) for c in found])._asdict()
            for arm, found in arms.items()
        }
        for part in PARTS
    ]
    return {
        "target": target,
        "cost": {label: to_target(found, target) for label, found in counted.items()},
        "equal FLOPs": equal,
        "primer": summary([float(after(curve, edge).value[0]) for curve in maskdm])._asdict(),
        "final": {arm: summary([float(curve.value[-1]) for curve in found])._asdict() for arm, found in arms.items()},
    }


def after(curve: Curve, edge: float) -> Curve:
    """The part of a curve from step ``edge`` on, all costs counted from there."""
    steps = curve.cost["steps"]
    kept = steps >= edge
    return Curve(
        {axis: cost[kept] - np.interp(edge, steps, cost) for axis, cost in curve.cost.items()}, curve.value[kept]
    )


def to_target(curves: Sequence[Curve], target: float) -> dict[str, Any]:
    """What each seed's curve had cost when it was first at or below ``target``, by axis; None where it never is.

    ``reached`` counts the seeds that are, and ``ended`` those that are at the end. ``mean`` and ``half_width`` (of the
    95 % interval) are over the seeds that reach it, None where there are too few.
    """
    found = [reach(curve, target) for curve in curves]
    costs: dict[str, Any] = {}
    for axis in AXES:
        there = [point[axis] for point in found if point is not None]
        over = summary(there) if there else None
        costs[axis] = {
            "seeds": [None if point is None else point[axis] for point in found],
            "mean": over and over.mean,
            "half_width": over and over.half_width,
        }
    return {
        "runs": len(curves),
        "reached": sum(point is not None for point in found),
        "ended": sum(bool(curve.value[-1] <= target) for curve in curves),
        **costs,
    }


def floor(data: ConfigDict, count: int = 10_000, sets: int = 10) -> Summary:
    """The metric of fresh sets of ``count`` points of the data set with the options ``data``."""
    options = {key: value for key, value in data.items() if key != "name"}
    dataset = swissroll(**options)
    noise = {"noise": options["noise"]} if "noise" in options else {}
    everything = np.arange(len(dataset.train)), np.arange(len(dataset.heldout))
    sources = zip((dataset.train, dataset.heldout), everything, strict=True)
    real = np.concatenate([source.fetch(index)["image"].reshape(-1, 2) for source, index in sources])
    return summary([sliced_wasserstein(points(count, seed, **noise), real) for seed in range(sets)])


def save_densities(
    path: Path, arms: Mapping[str, Sequence[Run]], curves: Mapping[str, Sequence[Curve]], edge: int
) -> None:
    """Densities of the first seed, from the pictures that the runs left: data, primer, fine-tuned, from scratch."""
    scratch, maskdm = (curves[arm][0] for arm in ("scratch", "maskdm"))
    shown = [
        ("primer", arms["maskdm"][0], edge, float(after(maskdm, edge).value[0])),
        ("fine-tuned", arms["maskdm"][0], int(maskdm.cost["steps"][-1]), float(maskdm.value[-1])),
        ("from scratch", arms["scratch"][0], int(scratch.cost["steps"][-1]), float(scratch.value[-1])),
    ]
    pictures = [
        np.asarray(Image.open(run.workdir / "samples" / f"step_{step:07d}.png").convert("RGB"))
        for _, run, step, _ in shown
    ]
    panels = [pictures[0][GAP : GAP + SIDE, GAP : GAP + SIDE]]
    panels += [picture[GAP : GAP + SIDE, -GAP - SIDE : -GAP] for picture in pictures]
    labels = ["data", *(f"{name}: {distance:.4f}" for name, _, _, distance in shown)]
    save_png(path, to_float(np.stack(panels)), columns=len(panels), scale=1, labels=labels)


def format_tables(found: Mapping[str, Any]) -> str:
    """The Markdown of `measure` and `floor`."""
    pre, level = Summary(**found["primer"]), Summary(**found["floor"])
    blocks = [
        "# A primer on the Swiss roll",
        f"Target {found['target']:.4f} of {METRIC}. Fresh points in place of samples read {_figure(level)} (over\n"
        f"sets), the primer, at the end of pre-training, {_figure(pre)}. ± is the 95 % interval over seeds (Student's\n"
        "t). A run is at the target when it is first at or below it, linear between measurements; means are over the\n"
        "seeds that reach it.",
    ]
    lines = [
        "| to the target | reached | at or below it at the end | unit | each seed | mean |",
        "|---|---|---|---|---|---|",
    ]
    for label, row in found["cost"].items():
        reached, ended = (f"{row[key]} of {row['runs']}" for key in ("reached", "ended"))
        for axis in AXES:
            cost = row[axis]
            each = ", ".join(map(_cost, cost["seeds"]))
            mean = _cost(cost["mean"]) + ("" if cost["half_width"] is None else f" ± {_cost(cost['half_width'])}")
            lines.append(f"| {' | '.join([label, reached, ended, UNITS[axis], each, mean])} |")
    blocks.append("\n".join(lines))
    lines = ["| distance at equal FLOPs | scratch | maskdm, pre-training included |", "|---|---|---|"]
    for row in found["equal FLOPs"]:
        cells = [f"{row['flops']:.3g}", *(_figure(Summary(**row[arm])) for arm in ARMS)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| at each arm's end | {' | '.join(_figure(Summary(**found['final'][arm])) for arm in ARMS)} |")
    blocks.append("\n".join(lines))
    blocks.append("![Densities: data, primer, fine-tuned, from scratch](swissroll.png)")
    blocks.append("![Distance against steps, FLOPs and seconds](compare/compare.png)")
    return "\n\n".join(blocks) + "\n"


def _figure(found: Summary) -> str:
    return f"{found.mean:.3g}" + ("" if found.half_width is None else f" ± {found.half_width:.2g}")


def _cost(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value < 1e7 else f"{value:.3g}".replace("e+", "e")


if __name__ == "__main__":
    main()
