"""What masked pre-training is worth on digits: at equal compute, and on a class with few images.

    python -m benchmarks.maskdm compute --seeds=3 --out=DIR     `digits_maskdm` against `digits_dense` at equal FLOPs
    python -m benchmarks.maskdm transfer --seeds=3 --out=DIR    nine classes first, then a tenth of the tenth's images

`compute` draws the pixel Frechet distance of 500 samples against steps, FLOPs and seconds (`maskdiff_jax.compare`).
`transfer` pre-trains on the digits 0 to 8 with masks, fine-tunes on 18 images of a 9, and trains on these from scratch;
it judges both against all 180 images of a 9: pixel Frechet, and the share of samples that copy a training image
(d1/d2 < 1/3). What is finished is not run again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from benchmarks.runs import Run, compare, execute, report, seeds
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.writers import read_jsonl

QUALITY = "quality/pixel_frechet"
RATE = "--config.schedule.learning_rate=5e-4"  # a quarter of that before, as in the paper's transfer (2e-4 to 5e-5)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    EXPERIMENTS[options.what](options.out, options.seeds)


def compute(out: Path, count: int) -> None:
    """Equal FLOPs: `digits_maskdm` spends those of `digits_dense` on two stages."""
    common = (
        "--config.log.quality_every=150",
        "--config.evaluate.num=500",
        "--config.evaluate.judge.name=none",
        "--config.log.sample_every=0",
        "--config.log.heldout_every=150",
    )
    runs = [
        run
        for name in ("digits_dense", "digits_maskdm")
        for run in seeds(out / name, (f"--config=configs/{name}.py", *common), count)
    ]
    execute(runs)
    compare(runs, QUALITY, out)


def transfer(out: Path, count: int) -> None:
    """Eighteen images of a 9, with and without the nine other digits first."""
    common = (
        "--config=configs/digits_dense.py",
        "--config.condition.label=False",
        "--config.evaluate.judge.name=none",
        "--config.log.sample_every=0",
        "--config.log.heldout_every=0",
    )
    first = (
        *common,
        "--config.data.classes=(0, 1, 2, 3, 4, 5, 6, 7, 8)",
        "--config.visibility.name=patch",
        "--config.visibility.ratio=0.75",
        "--config.schedule.final=1.0",
        "--config.evaluate.num=0",
        "--config.steps=2000",
    )
    then = (
        *common,
        "--config.data.classes=(9,)",
        "--config.data.heldout=162",
        "--config.steps=600",
        "--config.log.quality_every=50",
        "--config.evaluate.num=500",
        "--config.evaluate.images=162",
    )
    sources = seeds(out / "nine_classes", first, count)
    scratch = seeds(out / "scratch", then, count)
    tuned = [
        Run(run.workdir, (*run.arguments, f"--config.init_from={source.workdir}", RATE))
        for run, source in zip(seeds(out / "fine_tuned", then, count), sources, strict=True)
    ]
    execute([*sources, *scratch, *tuned])
    labels = ["scratch"] * count + ["fine-tuned"] * count
    compare([*scratch, *tuned], QUALITY, out, "--sunk", "--label", *labels)
    rows = {arm: _figures(runs) for arm, runs in {"scratch": scratch, "fine-tuned": tuned}.items()}
    write_json(out / "transfer.json", rows)
    lines = [
        "| 18 images of a 9 | best Frechet | at step | Frechet at the end | copies at the end | nearest at the end |",
        "|---|---|---|---|---|---|",
        *(f"| {arm} | {' | '.join(_interval(values) for values in row.values())} |" for arm, row in rows.items()),
        "",
        f"Mean and 95 % interval, {count} seeds. Held-out nines are {_reference(scratch)} from the nearest of the 18.",
    ]
    write_atomically(out / "transfer.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _figures(runs: Sequence[Run]) -> dict[str, list[float]]:
    """By seed: the best pixel Frechet and its step, and what the report says of the end."""
    figures: dict[str, list[float]] = {name: [] for name in ("best", "step", "frechet", "copies", "nearest")}
    for run in runs:
        curve = [(row[QUALITY], row["step"]) for row in read_jsonl(run.workdir / "metrics.jsonl") if QUALITY in row]
        best, step = min(curve)
        end = report(run)
        values = (best, step, end["pixel_frechet"], end["copied_share"], end["nearest_train_distance"])
        for name, value in zip(figures, values, strict=True):
            figures[name].append(float(value))
    return figures


def _reference(runs: Sequence[Run]) -> str:
    return f"{report(runs[0])['nearest_train_distance_heldout']:.2f}"


def _interval(values: Sequence[float]) -> str:
    """ "1.23 ± 0.45": the mean and the half width of Student's 95 % interval."""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.3g}"
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.3g} ± {half:.2g}"


EXPERIMENTS = {"compute": compute, "transfer": transfer}

if __name__ == "__main__":
    main()
