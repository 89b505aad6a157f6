"""What pre-training at 4 px saves at 8 px: `configs/digits_resolution.py` and its ablations, over seeds.

    python -m benchmarks.resolution --seeds=3 --out=DIR [--config.steps=300 …]

The 4 px runs are trained once and shared by the arms that start from them. All arms train as many steps at 8 px as the
one from scratch, whose mean final value is the level. For every arm and metric: the value at the end, and the steps of
8 px to the level as a share of the scratch arm's. DIR gets the runs, resolution.json, resolution.md and, in compare/,
the equal-compute reports with what pre-training had cost and (sunk) without. Interrupted, the same command goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import runs
from benchmarks.runs import Run
from maskdiff_jax.compare import read_run
from maskdiff_jax.evaluate.curves import Curve, Summary, reach, summary
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.provenance import provenance

METRICS = ("quality/pixel_frechet", "heldout_ema/loss")  # at 8 px they mean the same in all arms, and less is better
CLAIM = 0.5  # of the scratch arm's steps
LOW = {"4px": (), "4px_no_shift": ("--config.shift=1.0",)}
ARMS = {  # variant of the config, and the 4 px runs that it starts from
    "scratch": ("scratch", ""),
    "transfer": ("", "4px"),
    "no shift": ("no_shift", "4px_no_shift"),
    "no interpolation": ("extrapolate", "4px"),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options, changes = parser.parse_known_args(argv)

    low, arms = campaign(options.out, options.seeds, changes)
    runs.execute([*low, *(run for found in arms.values() for run in found)])
    ordered = [run for found in arms.values() for run in found]
    labels = [label for label, found in arms.items() for _ in found]
    for metric in METRICS:
        for cost in ((), ("--sunk",)):
            folder = options.out / "compare" / "_".join([metric.rpartition("/")[2], *(c.strip("-") for c in cost)])
            runs.compare(ordered, metric, folder, "--label", *labels, *cost)

    found = {metric: measure(arms, metric) for metric in METRICS}
    about = {"seeds": options.seeds, "changes": changes, "metrics": found}
    write_json(options.out / "resolution.json", about | {"provenance": provenance(about)})
    text = format_tables(found)
    write_atomically(options.out / "resolution.md", text.encode())
    print(text, end="")


def campaign(out: Path, count: int, changes: Sequence[str] = ()) -> tuple[list[Run], dict[str, list[Run]]]:
    """The runs of 4 px, and those of 8 px by arm; ``changes`` are arguments that all of them get."""

    def run(folder: str, variant: str, seed: int, *arguments: str) -> Run:
        config = f"--config=configs/digits_resolution.py{variant and ':'}{variant}"
        return Run(out / folder / f"seed_{seed}", (config, *arguments, *changes, f"--config.seed={seed}"))

    def later(source: str, seed: int) -> tuple[str, ...]:
        return (f"--config.init_from={out / source / f'seed_{seed}'}", "--config.stages=()") if source else ()

    low = [run(name, "low", seed, *own) for name, own in LOW.items() for seed in range(count)]
    arms = {
        label: [run(label.replace(" ", "_"), variant, seed, *later(source, seed)) for seed in range(count)]
        for label, (variant, source) in ARMS.items()
    }
    return low, arms


def measure(arms: Mapping[str, Sequence[Run]], metric: str) -> dict[str, Any]:
    """The level, and for each arm its final values and how soon it is there: what `shares` finds."""
    lines = {label: [read_run(run.workdir, metric, sunk=True).curve for run in found] for label, found in arms.items()}
    final = {label: summary([float(curve.value[-1]) for curve in found]) for label, found in lines.items()}
    level = final["scratch"].mean
    steps = float(lines["scratch"][0].cost["steps"][-1])
    rows = {label: {"final": final[label]._asdict(), **shares(found, level, steps)} for label, found in lines.items()}
    return {"level": level, "steps": steps, "arms": rows}


def shares(found: Sequence[Curve], level: float, steps: float) -> dict[str, Any]:
    """The first point of every curve that is as good as ``level``, as a share of ``steps``; None where there is none.

    ``share`` summarises the seeds that get there, and is None where none does.
    """
    points = [reach(curve, level) for curve in found]
    there = [point["steps"] / steps for point in points if point is not None]
    share = summary(there)._asdict() if there else None
    return {"seeds": len(points), "reached": len(there), "share": share}


def holds(row: Mapping[str, Any]) -> bool:
    """Whether all seeds reach the level in at most `CLAIM` of the steps, with the whole 95 % interval of their mean."""
    share = row["share"]
    return row["reached"] == row["seeds"] and share["mean"] + (share["half_width"] or 0.0) <= CLAIM


def format_tables(found: Mapping[str, Any]) -> str:
    """The Markdown of all metrics."""
    blocks = ["# From 4 to 8 pixels: digits", "± is the 95 % interval over seeds (Student's t)."]
    for metric, result in found.items():
        claim = f"at most {CLAIM:g} of the steps, interval included"
        blocks.append(
            f"## {metric}\n\nLevel {result['level']:.4g}: scratch after {result['steps']:.0f} steps, mean over seeds."
        )
        lines = [f"| arm | at the end | seeds at the level | steps / scratch's | {claim} |", "|---|---|---|---|---|"]
        for label, row in result["arms"].items():
            share = "–" if row["share"] is None else _measured(Summary(**row["share"]))
            cells = [label, _measured(Summary(**row["final"])), f"{row['reached']} of {row['seeds']}", share]
            lines.append(f"| {' | '.join([*cells, 'yes' if holds(row) else 'no'])} |")
        blocks.append("\n".join(lines))
        name = metric.rpartition("/")[2]
        blocks.append(f"![Cost of 8 px alone](compare/{name}_sunk/compare.png)")
        blocks.append(f"![Cost of 4 px included](compare/{name}/compare.png)")
    return "\n\n".join(blocks) + "\n"


def _measured(found: Summary) -> str:
    return f"{found.mean:.3g}" + ("" if found.half_width is None else f" ± {found.half_width:.2g}")


if __name__ == "__main__":
    main()
