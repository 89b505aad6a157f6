"""Workdirs as trainer and evaluations leave them, written by hand: for the tests of the page, without a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.evaluate.grid import save_png
from maskdiff_jax.train.files import write_json

DEFAULTS = {"name": "", "steps": 10_000, "batch": 128, "model": {"name": "dit", "preset": "S"}, "ema": (0.999,)}
CONFIG = DEFAULTS | {"name": "digits_sparse", "steps": 2000, "model": {"name": "dit", "width": 96}}
LEVELS = 8
REPORT: dict[str, Any] = {
    "name": "digits_sparse",
    "class_accuracy": 0.9375,
    "judge_accuracy": 0.9899,
    "pixel_frechet": 0.7134,
    "pixel_frechet_reference": 0.2881,
    "nearest_train_distance": 2.345,
    "nearest_train_distance_heldout": 2.219,
    "copied_share": 0.0125,
    "sliced_wasserstein": None,
    "sliced_wasserstein_reference": None,
    "violation_rate": None,
    "unreadable_rate": None,
    "heldout": {
        "loss": 0.4321,
        "levels": [0.7, 0.55, 0.6, 0.52, 0.4, 0.35, 0.25, 0.2],
        "edges": np.linspace(0, 1, LEVELS + 1).tolist(),
    },
    "bits_per_dim": None,
    "steps": 2000,
    "images": 256_000,
    "seconds": 643.2,
    "flops": 1.234e13,
    "parameters": 716_000,
    "samples": {
        "count": 1000, "sampler": "dpm_solver", "steps": 25, "guidance": 1.0, "class_count": 1000,
        "class_guidance": 2.0, "seed": 0,
    },
    "provenance": {
        "created": "2026-11-21T21:03:12+00:00", "revision": "0123abc", "config_sha256": "9f8e" * 16, "device": "cpu",
        "devices": 1, "processes": 1, "versions": {"jax": "0.10.2", "maskdiff_jax": "0.1.0"},
    },
    "metrics": {"fid": 4.815, "kid": None},
    "features": {"name": "classifier"},
}  # fmt: skip


def rows(steps: int = 2000, every: int = 50) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run of 100 images a second, but for its first line."""
    rng, found = np.random.default_rng(0), []
    for step in range(0, steps + 1, every):
        row: dict[str, Any] = {"step": step}
        if step:
            row |= {"images": 128 * step, "seconds": 20 + 1.28 * step, "flops": 6e9 * step}
            row |= {"train/loss": 0.4 + 1.2 * np.exp(-step / 300) + 0.02 * rng.normal()}
            row |= {"train/grad_norm": 0.5 + np.exp(-step / 200) * rng.uniform(0.5, 1.5), "train/skipped_total": 0.0}
            row |= {"train/learning_rate": 2e-3 * np.cos(step / steps * np.pi / 2)}
        if step % (4 * every) == 0:
            levels = np.linspace(0.7, 0.2, LEVELS) + np.exp(-step / 300)
            for name, more in (("heldout", 0.02), ("heldout_ema", 0.0)):
                row |= {f"{name}/level_{j:02d}": level + more for j, level in enumerate(levels)}
                row |= {f"{name}/loss": levels.mean() + more}
        if step and step % (10 * every) == 0:
            row |= {"quality/class_accuracy": 1 - 300 / step, "quality/pixel_frechet": 0.5 + 400 / step}
        found.append(row)
    return found


def write_run(workdir: Path, finished: bool = True) -> Path:
    """A run still in training, or one that ended, as the trainer alone leaves it."""
    write_json(workdir / "config.json", CONFIG)
    lines = rows(2000 if finished else 800)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for step in range(200, 2001 if finished else 801, 200):
        save_png(workdir / f"samples/step_{step:07d}.png", pictures(step, 16))
    if finished:
        save_png(workdir / "samples/final.png", pictures(0, 16))
        write_json(workdir / "report.json", REPORT)
    return workdir


def write_rest(workdir: Path, step: int = 2000) -> Path:
    """What evaluations, diagnostics and pictures of masks and neighbours add to a run."""
    for i, guidance in enumerate((1.0, 1.5, 2.0, 3.0)):
        write_evaluation(workdir, f"guidance_{guidance:g}", i, step=step, guidance=guidance)
    for i, steps in enumerate((5, 10, 50)):
        write_evaluation(workdir, f"steps_{steps}", 4 + i, step=step, steps=steps)
        write_evaluation(workdir, f"heun_{steps}", 7 + i, step=step, steps=steps, sampler="heun")
    save_png(workdir / "samples/masks.png", pictures(1, 24), columns=8)
    save_png(workdir / "samples/nearest.png", pictures(2, 16), columns=4)
    save_png(workdir / "evaluations/steps_50/nearest.png", pictures(3, 16), columns=4)
    save_png(workdir / "diagnostics/context.png", pictures(4, 16), columns=8)
    write_json(workdir / "diagnostics.json", diagnostics(step))
    return workdir


def write_evaluation(workdir: Path, name: str, order: int, **changes: Any) -> None:
    """One evaluation; of the metrics FID has its minimum at guidance 1.5 and falls with the steps."""
    settings = {"step": 2000, "seed": 0, "sampler": "dpm_solver", "steps": 25, "guidance": 1.0} | changes
    inner = {"clip": True, "guidance.name": "classifier_free", "guidance.scale": settings["guidance"]}
    inner |= {"sampler.name": settings["sampler"], "steps": settings["steps"]}
    settings |= {"sample": inner, "params": "9c05e07a" * 8}
    fid = 3 + 2 * (settings["guidance"] - 1.5) ** 2 + 12.5 / settings["steps"] + (settings["sampler"] == "heun")
    values = {"fid": fid, "kid": fid / 300, "kid_std": 0.00123, "is": 8 + settings["guidance"], "recall": "nan"}
    created = f"2026-11-21T21:{order:02d}:00+00:00"
    result = {"features": {"name": "classifier"}, "num": 5000, "values": values, "created": created}
    rate = None if order == 0 else 800 - settings["steps"]
    found = {"settings": settings, "results": [result | {"images_per_second": rate}]}
    write_json(workdir / f"evaluations/{name}/metrics.json", found)


def diagnostics(step: int) -> dict[str, Any]:
    """diagnostics.json of a model of images in colour that turn red."""
    bias = []
    for t in (np.arange(8) + 0.5) / 8:
        mse = 0.02 + t**2 / 3
        level = {"t": t, "mse_x": mse, "mse_x_error": mse / 20, "mse_eps": mse * (1 / t - 1) ** 2}
        level |= {"mse_eps_error": mse * (1 / t - 1) ** 2 / 20}
        bias.append(level | {"offset": [0.02 * t, -0.005 * t, 0.0], "offset_error": [0.002] * 3})
    shifts = []
    for steps in (5, 10, 25, 50, 100):
        shift = {"steps": steps, "shift": [0.4 / steps, 0.2 / steps, 0.1 / steps], "shift_error": [0.01 / steps] * 3}
        shift |= {"chroma": 0.3 / steps, "chroma_error": 0.02 / steps}
        shifts.append(shift | {"offset": [0.01 + 0.2 / steps, 0.0, -0.1 / steps], "offset_error": [0.004] * 3})
    context = [
        {"t": t, "pixel": pixel, "outside": 0.1 + 0.6 * t, "outside_error": 0.01, "distance": 1 + 2 * t + pixel[0] / 9,
         "distance_error": 0.1}
        for t in (0.1, 0.3, 0.5, 0.7, 0.9) for pixel in ([0, 0], [4, 4])
    ]  # fmt: skip
    found = {"step": step, "images": 256, "samples": 100, "sampler": "ddim", "bias": bias}
    return found | {"colour_shift": shifts, "context": context}


def pictures(seed: int, count: int) -> np.ndarray:
    """Images [count, 8, 8, 1] of rings, all different."""
    rng, grid = np.random.default_rng(seed), np.linspace(-1, 1, 8)
    centres = rng.uniform(-0.6, 0.6, (count, 2, 1, 1))
    away = np.hypot(grid[:, None] - centres[:, 0], grid[None, :] - centres[:, 1])
    return (2 * np.exp(-((away - 0.5) ** 2) / 0.1) - 1)[..., None].astype(np.float32)
