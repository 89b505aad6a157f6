"""report.json: the final evaluation of a run and its provenance, under a fixed set of keys; and the same as a table."""

import math
import os
from collections.abc import Mapping
from types import NoneType
from typing import Any

import numpy as np

from maskdiff_jax.train.files import write_json

NUMBER = (int, float)
MAYBE = (int, float, NoneType)  # null: not measured, or not finite

# Key -> allowed types of its value; a dict is an object with exactly these keys, [types] a list of such values.
SCHEMA: dict[str, Any] = {
    "name": (str,),  # of the config
    "class_accuracy": MAYBE,  # the share of class-conditional samples in which the judge sees the class asked for
    "judge_accuracy": MAYBE,  # the judge's own, on held-out real images
    "pixel_frechet": MAYBE,  # samples against all real images, pixels in [-1, 1]
    "pixel_frechet_reference": MAYBE,  # the same between random halves of the real images
    "nearest_train_distance": MAYBE,  # mean Euclidean distance of a sample to its nearest training image
    "nearest_train_distance_heldout": MAYBE,  # the same for held-out real images
    "copied_share": MAYBE,  # share of samples much nearer to one training image than to any other (d1/d2 < 1/3)
    "sliced_wasserstein": MAYBE,  # samples against all real points, for data of at most 16 numbers
    "sliced_wasserstein_reference": MAYBE,  # the same between random halves of the real points
    "violation_rate": MAYBE,  # share of readable samples that break the rule of the data, where they have one
    "unreadable_rate": MAYBE,  # share of samples of which nobody can tell
    "heldout": {  # the dense loss at fixed (t, eps)
        "loss": MAYBE,
        "levels": [MAYBE],  # by noise level
        "edges": [NUMBER],  # level j is t in [edges[j], edges[j + 1]]
    },
    "metrics": (dict,),  # evaluate.metrics of the samples: {name: number or null}
    "features": (dict, NoneType),  # what they were computed on
    "bits_per_dim": MAYBE,  # variational bound on held-out images
    "steps": (int,),
    "images": (int,),  # seen in training, repetitions counted
    "seconds": NUMBER,  # of training, all restarts together
    "flops": NUMBER,  # of training, analytic
    "parameters": (int,),
    "samples": {
        "count": (int,),
        "sampler": (str,),
        "steps": (int,),
        "guidance": NUMBER,  # of the samples behind pixel_frechet and nearest_train_distance
        "class_count": (int,),
        "class_guidance": NUMBER,  # of the samples behind class_accuracy
        "seed": (int,),
    },
    "provenance": {
        "created": (str,),  # ISO 8601, UTC
        "revision": (str, NoneType),
        "config_sha256": (str,),
        "device": (str,),
        "devices": (int,),
        "processes": (int,),
        "versions": (dict,),
    },
}


def make_report(*, heldout: Mapping[str, float], edges: list[float], **entries: Any) -> dict[str, Any]:
    """A valid report, in the order of `SCHEMA`, of plain JSON values; numbers that are not finite become null.

    ``heldout`` is what `make_heldout`'s function returns and ``edges`` are the `level_edges`; ``entries`` are the other
    keys of `SCHEMA`. Raises ValueError as `validate` does.
    """
    levels = [heldout[key] for key in sorted(heldout) if key.startswith("level_")]
    entries["heldout"] = {"loss": heldout["loss"], "levels": levels, "edges": edges}
    order = {key: i for i, key in enumerate(SCHEMA)}
    report = {key: _plain(entries[key]) for key in sorted(entries, key=lambda key: order.get(key, len(order)))}
    validate(report)
    return report


def validate(report: Mapping[str, Any]) -> None:
    """Check ``report`` against `SCHEMA`. Raises ValueError with one line naming every missing, unknown or bad entry."""
    problems = _problems(report, SCHEMA, "")
    if not problems and len(report["heldout"]["edges"]) != len(report["heldout"]["levels"]) + 1:
        problems = ["heldout.edges must be one more than heldout.levels"]
    if problems:
        raise ValueError("not a report: " + "; ".join(problems))


def save_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write a valid report as JSON, atomically. Raises ValueError as `validate` does."""
    validate(report)
    write_json(path, report)


def format_table(report: Mapping[str, Any]) -> str:
    """The report as an aligned plain-text table of at most 80 columns, ASCII only."""
    samples, heldout, origin = report["samples"], report["heldout"], report["provenance"]
    drawn = f"{samples['count']:,} samples, guidance {samples['guidance']:g}"
    judged = f"{samples['class_count']:,} samples, guidance {samples['class_guidance']:g}"
    rows = [
        ("class accuracy", _number(report["class_accuracy"], ".3f"), judged),
        ("  of the judge", _number(report["judge_accuracy"], ".3f"), "held-out real images"),
        ("pixel Frechet", _number(report["pixel_frechet"], ".3f"), drawn),
        ("  reference", _number(report["pixel_frechet_reference"], ".3f"), "random halves of the real images"),
        ("nearest train image", _number(report["nearest_train_distance"], ".3f"), drawn),
        ("  reference", _number(report["nearest_train_distance_heldout"], ".3f"), "held-out real images"),
        ("copies", _number(report["copied_share"], ".3f"), "3 times nearer to one training image"),
        None,
        ("dense held-out loss", _number(heldout["loss"], ".4f"), "mean over all noise levels"),
    ]
    if report["sliced_wasserstein"] is not None:
        rows[2:4] = [
            ("sliced Wasserstein", _number(report["sliced_wasserstein"], ".4f"), drawn),
            ("  reference", _number(report["sliced_wasserstein_reference"], ".4f"), "random halves of the real points"),
        ]
    if report["unreadable_rate"] is not None:
        rows.insert(-2, ("rule broken", _number(report["violation_rate"], ".3f"), "of the readable samples"))
        rows.insert(-2, ("  unreadable", _number(report["unreadable_rate"], ".3f"), drawn))
    for name, value in report["metrics"].items():
        rows.insert(-2, (f"{name}", _number(value, ".4g"), f"{report['features']['name']} features"))
    if report["bits_per_dim"] is not None:
        rows.insert(-1, ("bits per dimension", _number(report["bits_per_dim"], ".3f"), "bound on held-out images"))
    peak = max((level for level in heldout["levels"] if level is not None), default=0) or 1
    for low, high, level in zip(heldout["edges"][:-1], heldout["edges"][1:], heldout["levels"], strict=True):
        bar = "#" * round(30 * max(0, level or 0) / peak)
        rows.append((f"  t {low:.2f} .. {high:.2f}", _number(level, ".4f"), bar))
    rows += [
        None,
        ("steps", f"{report['steps']:,}", f"{report['images']:,} images"),
        ("parameters", _si(report["parameters"]), f"{_si(report['flops'])}FLOP in {_duration(report['seconds'])}"),
        ("sampler", samples["sampler"], f"{samples['steps']} steps, seed {samples['seed']}"),
        ("device", f"{origin['devices']} x", origin["device"]),
    ]
    return _layout(report["name"], rows)


def _layout(title: str, rows: list[tuple[str, str, str] | None]) -> str:
    first, second = (max(len(row[i]) for row in rows if row) for i in (0, 1))
    lines = [f" {a:<{first}}  {b:>{second}}  {c}".rstrip()[:80] if (a, b, c) else "" for a, b, c in filter(None, rows)]
    rule = "-" * max(map(len, lines))
    body = iter(lines)
    return "\n".join([f" {title}"[:80], rule, *(next(body) if row else rule for row in rows), rule])


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _si(value: float) -> str:
    """1234567 -> '1.23 M'; ends in a space below 1000."""
    power = min(6, int(math.log10(value) / 3)) if value >= 1000 else 0
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value: Any) -> Any:
    """Numpy and JAX scalars and arrays as Python values, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _problems(value: Any, schema: Any, path: str) -> list[str]:
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path} is {type(value).__name__}, not a list"]
        return [p for i, entry in enumerate(value) for p in _problems(entry, schema[0], f"{path}[{i}]")]
    if isinstance(schema, tuple):
        fits = isinstance(value, schema) and not isinstance(value, bool)
        wanted = " or ".join(kind.__name__ for kind in schema)
        return [] if fits else [f"{path} is {type(value).__name__}, not {wanted}"]
    if not isinstance(value, Mapping):
        return [f"{path or 'the report'} is {type(value).__name__}, not an object"]
    prefix = f"{path}." if path else ""
    found = [f"{prefix}{key} is missing" for key in schema if key not in value]
    found += [f"{prefix}{key} is unknown" for key in value if key not in schema]
    return found + [p for key in schema if key in value for p in _problems(value[key], schema[key], prefix + key)]
