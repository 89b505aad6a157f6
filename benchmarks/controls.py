"""Are controls obeyed, and does content stay when one changes? `digits_controls`, disentangled and entangled, by seeds.

    python -m benchmarks.controls --out=DIR [--seeds=3 --count=250 --guidance 2:2 1:1 --config.steps=…]

Trains what DIR does not hold yet and measures the averaged parameters. DIR gets controls.json, controls.md and one
picture of each arm: rows are one noise and class, columns sweep a control. What reads the images has seen real training
images alone, rendered by the data's own augmentation, and is itself measured on real held-out ones:

- offset: the centroid of the ink is within 1 px, on both axes, of where real digits of that class, flip, place and
  scale have it on average.
- flip: an SVM for each class, told flipped digits from others, agrees. Only classes where it is right on at least 95 %
  of real held-out images.
- original size: whether there is detail that half of the pixels cannot hold. contrast: the brightest pixel of a sample
  falls to between 0.4 and 0.6 of what it was when 0.5 is asked for instead of 1.
- drift: the same noise, class and place are sampled with the original size 8, then 4 (or contrast 1, then 0.5). The
  first digit is cut out, rendered anew as the second was asked for, and both images are scaled to norm 1: drift is the
  distance between them. Were the control's own effect all that changed, it would be 0; the column of real images holds
  two different digits of a class against each other. kept: the share in which an SVM sees the same class in both.

Guidance a:b is `two_scale` with semantic=a and control=b; 1:1 is none.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.stats import t as student

from benchmarks import runs
from maskdiff_jax import inference
from maskdiff_jax.build import Experiment
from maskdiff_jax.data import Source, conditions, originals, to_float, to_uint8
from maskdiff_jax.data.resample import Axis, resample, taps
from maskdiff_jax.evaluate.grid import save_png
from maskdiff_jax.evaluate.judge import Classify, svm
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.types import Cond

Controls = dict[str, np.ndarray]
ARMS = ("entangled", "disentangled")
SIDE = 8  # of a stored digit
BASE = {"scale": SIDE, "original_height": SIDE, "contrast": 1.0}  # at this scale a digit can be cut out exactly
CHANGES = {"original size": {"original_height": SIDE // 2}, "contrast": {"contrast": 0.5}}
STILL = {"offset_top": 4, "offset_left": 4, "scale": 8, "flip": 0, "original_height": 8, "contrast": 1.0}
SWEEPS = (  # the columns of the picture: label, what differs from STILL
    *((f"left {v}", {"offset_left": v}) for v in (0, 4, 8)),
    *((f"scale {v}", {"scale": v}) for v in (8, 12)),
    *((f"flip {v}", {"flip": v}) for v in (0, 1)),
    *((f"size {v}", {"original_height": v}) for v in (8, 4)),
    *((f"contrast {v:g}", {"contrast": v}) for v in (1.0, 0.75, 0.5)),
)
ROWS = (2, 3, 4, 5, 6, 7)  # classes of the picture


class Reader(NamedTuple):
    """What real training images tell about reading an image.

    ``centre`` [classes, 2, 2] is the mean centroid of unflipped and flipped digits in their box, as a fraction of its
    side; ``flips`` has the classes whose flip can be read; ``sharp`` is the detail above which an original was whole.
    """

    centre: np.ndarray
    classify: Classify
    flips: dict[int, Classify]
    sharp: float


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=250, help="samples in each of the four sets of a measurement")
    parser.add_argument("--guidance", nargs="+", default=["2:2", "1:1"], help="semantic:control, the first is compared")
    parser.add_argument("--out", type=Path, required=True)
    options, overrides = parser.parse_known_args(argv)
    planned = {
        arm: runs.seeds(options.out / arm, (f"--config=configs/digits_controls.py:{arm}", *overrides), options.seeds)
        for arm in ARMS
    }
    runs.execute(run for pair in zip(*planned.values(), strict=True) for run in pair)

    found: dict[str, Any] = {}
    for arm in ARMS:
        stages = build_stages(inference.read_config(planned[arm][0].workdir))
        experiment = stages[0].experiment
        reader = make_reader(experiment)
        found["real"] = real_figures(experiment, reader)
        draws = {text: generator(experiment, text, options.count) for text in options.guidance}
        for run in planned[arm]:
            params = inference.load(stages, run.workdir)[1].params
            for text, draw in draws.items():
                figures = measure(experiment, reader, partial(draw, params), options.count)
                found.setdefault(arm, {}).setdefault(text, []).append(figures)
                print(run.workdir, text, {name: round(value, 3) for name, value in figures.items()}, flush=True)
        params = inference.load(stages, planned[arm][0].workdir)[1].params
        small = generator(experiment, options.guidance[0], len(ROWS))
        save_sweeps(options.out / f"{arm}.png", experiment, partial(small, params))
    about = {"count": options.count, "seeds": options.seeds, "overrides": overrides}
    write_json(options.out / "controls.json", found | about | {"provenance": provenance(about)})
    table = format_table(found, options.guidance)
    write_atomically(options.out / "controls.md", f"{table}\n".encode())
    print(table)


# Pure measurements. Images are float [n, h, w, 1] in [-1, 1] with ink at 1, controls [n] each.


def centroid(images: np.ndarray) -> np.ndarray:
    """Row and column [n, 2] of the mean ink in pixels; the centre of the first pixel is at 0.5. NaN without ink."""
    ink = (images[..., 0] + 1) / 2
    rows, columns = (np.arange(side) + 0.5 for side in ink.shape[1:])
    return np.stack([ink.sum(2) @ rows, ink.sum(1) @ columns], axis=1) / ink.sum((1, 2))[:, None]


def cut_out(images: np.ndarray, controls: Controls) -> np.ndarray:
    """The boxes that were asked for, uint8 [n, 8, 8, 1]: exact at scale 8, else resized by the data's own filter."""
    zero = np.zeros(len(images), np.int32)
    scale = controls["scale"].astype(np.int32)
    axes = [
        Axis(controls[name].astype(np.int32), scale, zero, zero + SIDE, SIDE, taps(images.shape[1], SIDE))
        for name in ("offset_top", "offset_left")
    ]
    return resample(to_uint8(images), *axes)


def digit(images: np.ndarray, controls: Controls) -> np.ndarray:
    """The boxes that were asked for, float [n, 8, 8, 1], the brightest pixel of each at 1."""
    boxes = cut_out(images, controls).astype(np.float32)
    return boxes / np.maximum(boxes.max((1, 2, 3), keepdims=True), 1)


def detail(digits: np.ndarray) -> np.ndarray:
    """The share [n] of the energy of digits [n, 8, 8, 1] that the means of 2x2 squares do not hold."""
    half = digits.shape[1] // 2
    means = digits.reshape(-1, half, 2, half, 2, 1).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    return ((digits - means) ** 2).sum((1, 2, 3)) / np.maximum((digits**2).sum((1, 2, 3)), 1e-12)


def threshold(below: np.ndarray, above: np.ndarray) -> float:
    """The value that most of ``below`` [n] do not exceed and most of ``above`` [m] do: the fewest errors."""
    values = np.sort(np.concatenate([below, above]))
    errors = [(below > v).sum() + (above <= v).sum() for v in values]
    return float(values[int(np.argmin(errors))])


def drift(rendered: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Distance [n] between images in which black is 0, scaled to norm 1: 0 where one is a multiple of the other."""
    a, b = ((x.reshape(len(x), -1) + 1) / 2 for x in (rendered, images))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return np.linalg.norm(a - b, axis=1)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval by Student's t; None from one value."""
    n = len(values)
    half = None if n < 2 else float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return float(np.mean(values)), half


# Real images, and what is learned from them.


def draw_controls(experiment: Experiment, count: int, seed: int, **fixed: float) -> Controls:
    """Controls [count] as the data have them, but for those that are given; a place fits any smaller scale."""
    drawn = experiment.augment.controls(seed, np.arange(count), experiment.dataset.shape)
    return drawn | {name: np.full(count, value, drawn[name].dtype) for name, value in fixed.items()}


def real(experiment: Experiment, source: Source, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray, Controls]:
    """Every image of a source, rendered ``repeats`` times: images, labels, controls."""
    records = source.fetch(np.tile(np.arange(len(source)), repeats))
    controls = draw_controls(experiment, len(records["label"]), seed)
    return to_float(experiment.augment.apply(records["image"], controls)), records["label"], controls


def make_reader(experiment: Experiment, repeats: int = 4) -> Reader:
    """Learn from real training images; which classes' flips can be read is decided on real held-out ones."""
    images, labels, controls = real(experiment, experiment.dataset.train, repeats, seed=1)
    tests, test_labels, test_controls = real(experiment, experiment.dataset.heldout, repeats, seed=2)
    digits, test_digits = digit(images, controls), digit(tests, test_controls)
    corner = np.stack([controls["offset_top"], controls["offset_left"]], axis=1)
    inside = (centroid(images) - corner) / controls["scale"][:, None]
    classes, flips = range(experiment.dataset.classes), {}
    hits = {k: labels == k for k in classes}
    centre = np.array([[inside[hits[k] & (controls["flip"] == f)].mean(0) for f in (0, 1)] for k in classes])
    for k in classes:
        read, seen = svm()(digits[hits[k]], controls["flip"][hits[k]]), test_labels == k
        if np.mean(read(test_digits[seen]) == test_controls["flip"][seen]) >= 0.95:
            flips[k] = read
    whole = controls["original_height"] == SIDE
    found = detail(digits)
    return Reader(centre, svm()(digits, labels), flips, threshold(found[~whole], found[whole]))


def obedience(reader: Reader, images: np.ndarray, labels: np.ndarray, controls: Controls) -> dict[str, float]:
    """The shares of images that are as was asked for."""
    digits, flip = digit(images, controls), controls["flip"]
    corner = np.stack([controls["offset_top"], controls["offset_left"]], axis=1)
    expected = corner + controls["scale"][:, None] * reader.centre[labels, flip]
    flips = np.concatenate([read(digits[labels == k]) == flip[labels == k] for k, read in reader.flips.items()])
    return {
        "offset": float(np.mean((np.abs(centroid(images) - expected) <= 1).all(1))),
        "flip": float(np.mean(flips)),
        "original size": float(np.mean((detail(digits) > reader.sharp) == (controls["original_height"] == SIDE))),
        "class": float(np.mean(reader.classify(digits) == labels)),
    }


def compare(
    experiment: Experiment, reader: Reader, base: np.ndarray, changed: np.ndarray, controls: Controls
) -> dict[str, float]:
    """Content of ``changed``, for which ``controls`` were asked, against ``base``, at scale 8 and of full contrast."""
    as_cut = controls | {"flip": np.zeros_like(controls["flip"])}  # a sample is cut out as it stands
    rendered = to_float(experiment.augment.apply(cut_out(base, controls), as_cut))
    kept = reader.classify(digit(rendered, controls)) == reader.classify(digit(changed, controls))
    return {"drift": float(drift(rendered, changed).mean()), "kept": float(kept.mean())}


def real_figures(experiment: Experiment, reader: Reader) -> dict[str, Any]:
    """The same figures of real held-out images. Their drift is that between different digits of one class."""
    source = experiment.dataset.heldout
    figures: dict[str, Any] = obedience(reader, *real(experiment, source, 4, seed=2)) | {"contrast": 1.0}
    records, controls = source.fetch(np.arange(len(source))), draw_controls(experiment, len(source), 3, **BASE)
    order = np.argsort(records["label"], kind="stable")
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    base = to_float(experiment.augment.apply(records["image"], controls))
    for name, change in CHANGES.items():
        asked = controls | {n: np.full_like(controls[n], value) for n, value in change.items()}
        changed = to_float(experiment.augment.apply(records["image"][other], asked))
        figures |= {f"{key}, {name}": v for key, v in compare(experiment, reader, base, changed, asked).items()}
    return figures | {"flip read of": sorted(reader.flips)}


# Samples.


def generator(experiment: Experiment, guidance: str, batch: int) -> Callable[..., np.ndarray]:
    """`inference.generator` under the guidance "semantic:control"."""
    semantic, control = map(float, guidance.split(":"))
    settings = experiment.config.sample.copy_and_resolve_references()
    with settings.ignore_type():
        settings.guidance = ConfigDict({"name": "two_scale", "semantic": semantic, "control": control})
    return inference.generator(experiment, settings, min(batch, 250))


def given(experiment: Experiment, labels: np.ndarray, controls: Controls) -> Cond:
    """The conditions of a network for these labels and controls [n]."""
    names, shape = experiment.config.condition, experiment.dataset.shape
    pick = partial(conditions, experiment.augment, controls, originals(shape, len(labels)), shape)
    return Cond(jnp.asarray(labels), controls_high=pick(names.controls_high), controls_low=pick(names.controls_low))


def measure(experiment: Experiment, reader: Reader, draw: Callable[..., np.ndarray], count: int) -> dict[str, float]:
    """All figures of one network: a set as the data are, and three of the same noise, class and place."""
    labels = np.arange(count, dtype=np.int32) % experiment.dataset.classes
    sample = lambda controls, seed: draw(count, given(experiment, labels, controls), seed)  # noqa: E731
    drawn = draw_controls(experiment, count, 4)
    figures = obedience(reader, sample(drawn, 0), labels, drawn)
    controls = draw_controls(experiment, count, 5, **BASE)
    base = sample(controls, 1)
    for name, change in CHANGES.items():
        asked = controls | {n: np.full_like(controls[n], value) for n, value in change.items()}
        changed = sample(asked, 1)
        figures |= {f"{key}, {name}": v for key, v in compare(experiment, reader, base, changed, asked).items()}
    ratio = (changed.max((1, 2, 3)) + 1) / np.maximum(base.max((1, 2, 3)) + 1, 1e-6)  # of the last change, contrast
    return figures | {"contrast": float(np.mean(np.abs(ratio - 0.5) <= 0.1))}


def save_sweeps(path: Path, experiment: Experiment, draw: Callable[..., np.ndarray]) -> None:
    """The picture of a network: a row for each of ROWS with its own noise, a column for each value of SWEEPS."""
    labels, parts = np.array(ROWS, np.int32), []
    for _, change in SWEEPS:
        controls = {name: np.full(len(ROWS), value) for name, value in (STILL | change).items()}
        parts.append(draw(len(ROWS), given(experiment, labels, controls), 2))
    images = np.stack(parts, axis=1).reshape(-1, *experiment.image_shape)
    save_png(path, images, columns=len(SWEEPS), scale=5, labels=[label for label, _ in SWEEPS] * len(ROWS))


def format_table(found: dict[str, Any], guidances: Sequence[str]) -> str:
    """Mean ± half of the 95 % interval over seeds, for every guidance, and the ratio of the drifts, paired by seed."""

    def cell(values: Sequence[float]) -> str:
        mean, half = interval(values)
        return f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}")

    lines = [f"Flips are read of the classes {', '.join(map(str, found['real']['flip read of']))}."]
    for text in guidances:
        lines += ["", f"Guidance {text}", "", f"| | real | {' | '.join(ARMS)} | ratio |", "|---|---|---|---|---|"]
        for name in found[ARMS[0]][text][0]:
            entangled, disentangled = ([figures[name] for figures in found[arm][text]] for arm in ARMS)
            ratio = [b / a for a, b in zip(entangled, disentangled, strict=True)] if "drift" in name else []
            lines.append(
                f"| {name} | {found['real'][name]:.3f} | {cell(entangled)} | {cell(disentangled)} "
                f"| {cell(ratio) if ratio else ''} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
