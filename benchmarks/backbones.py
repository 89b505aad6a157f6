"""All backbones on scikit-learn's digits: one recipe, about as many parameters, as many steps.

    python -m benchmarks.backbones --out=DIR [--seeds=1 --config.steps=300 …]

`configs/digits_dense.py` with each network at about 0.25 M parameters. Of the dense held-out loss of the average: at
step 0, at the end, as a share of step 0 and over the best. The bars are 0.5 and 1.25; U-ViT is an extra row, with which
none is compared. DIR gets the runs, backbones.json, backbones.md and backbones.png. Interrupted, the same command goes
on.
"""

import argparse
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import runs
from benchmarks.runs import Run
from maskdiff_jax.compare import read_run
from maskdiff_jax.evaluate.curves import Curve, mean_curve, summary
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.provenance import provenance

METRIC = "heldout_ema/loss"
OF_START, OF_BEST = 0.5, 1.25  # the most that a final loss may be, of step 0's and of the best
EXTRA = ("uvit",)

SIZES: dict[str, dict[str, Any]] = {
    "dit": {"patch": 2, "width": 64, "depth": 3, "heads": 4},
    "unet": {"base": 18, "groups": 6, "head_channels": 18},
    "mdt": {"patch": 2, "width": 56, "depth": 3, "heads": 4, "decoder": 1},
    "pixart": {"patch": 2, "width": 64, "depth": 3, "heads": 4},
    "mmdit": {"patch": 2, "width": 64, "depth": 2, "heads": 4},
    "uvit": {"patch": 2, "width": 64, "depth": 4, "heads": 4},
}
TRAINED = {"mdt": ("--config.second_pass.weight=1.0",)}  # both passes, as it is meant
RECIPE = (
    "--config=configs/digits_dense.py",
    "--config.steps=1200",
    "--config.batch=64",
    "--config.schedule.warmup=50",
    "--config.log.heldout_every=100",
    "--config.log.sample_every=0",
    "--config.sample.steps=15",
    "--config.evaluate.num=500",
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options, changes = parser.parse_known_args(argv)

    arms = {name: runs.seeds(options.out / name, [*arguments(name), *changes], options.seeds) for name in SIZES}
    runs.execute(run for found in arms.values() for run in found)
    lines = {name: [read_run(run.workdir, METRIC).curve for run in found] for name, found in arms.items()}
    rows = table(lines, arms)
    about = {"seeds": options.seeds, "changes": changes, "sizes": SIZES, "rows": rows}
    write_json(options.out / "backbones.json", about | {"provenance": provenance(about)})
    write_atomically(options.out / "backbones.png", draw(lines))
    text = format_table(rows)
    write_atomically(options.out / "backbones.md", text.encode())
    print(text, end="")


def arguments(name: str) -> list[str]:
    """Of the trainer, for one backbone."""
    sizes = [f"--config.model.{key}={value}" for key, value in SIZES[name].items()]
    return [*RECIPE, f"--config.model.name={name}", *sizes, *TRAINED.get(name, ())]


def table(lines: Mapping[str, Sequence[Curve]], arms: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """A row for each backbone: means over its seeds, and whether they pass both bars."""
    final = {name: summary([float(curve.value[-1]) for curve in found]) for name, found in lines.items()}
    best = min(value.mean for name, value in final.items() if name not in EXTRA)
    rows = []
    for name, found in lines.items():
        reports = [runs.report(run) for run in arms[name]]
        start = summary([float(curve.value[0]) for curve in found]).mean
        of_start, of_best = final[name].mean / start, final[name].mean / best
        rows.append(
            {
                "backbone": name,
                "parameters": reports[0]["parameters"],
                "steps": reports[0]["steps"],
                "start": start,
                "end": final[name]._asdict(),
                "of_start": of_start,
                "of_best": of_best,
                "passes": of_start <= OF_START and of_best <= OF_BEST,
                "class_accuracy": summary([report["class_accuracy"] for report in reports]).mean,
                "seconds": summary([report["seconds"] for report in reports]).mean,
            }
        )
    return rows


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown of `table`."""
    lines = [
        f"Dense held-out loss on digits after {rows[0]['steps']} steps; bars: {OF_START:g} of step 0, {OF_BEST:g} × "
        "the best",
        "",
        "| backbone | parameters | step 0 | end | of step 0 | of the best | passes | class accuracy | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        half_width = row["end"]["half_width"]
        spread = "" if half_width is None else f" ± {half_width:.2g}"
        cells = [
            row["backbone"] + (" (extra)" if row["backbone"] in EXTRA else ""),
            f"{row['parameters']:,}",
            f"{row['start']:.4f}",
            f"{row['end']['mean']:.4f}{spread}",
            f"{row['of_start']:.3f}",
            f"{row['of_best']:.3f}",
            "yes" if row["passes"] else "no",
            f"{row['class_accuracy']:.3f}",
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n![Held-out loss against steps](backbones.png)\n"


def draw(lines: Mapping[str, Sequence[Curve]]) -> bytes:
    """The mean curves as a PNG."""
    from matplotlib.figure import Figure  # takes a while to import

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    for name, found in lines.items():
        style = "--" if name in EXTRA else "-"
        panel.plot(*mean_curve(found, "steps"), style, label=name, marker="o", markersize=3)
    panel.set_yscale("log")
    panel.set_xlabel("steps")
    panel.set_ylabel(f"{METRIC}, lower is better")
    panel.grid(color="0.9", linewidth=0.8, which="both")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
