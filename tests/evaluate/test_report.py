import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.evaluate.report import SCHEMA, format_table, make_report, save_report, validate
from maskdiff_jax.train.provenance import provenance

# Readers of report.json rely on these. A key may be added here on purpose; none may go.
KEYS = {
    "name", "class_accuracy", "judge_accuracy", "pixel_frechet", "pixel_frechet_reference", "nearest_train_distance",
    "nearest_train_distance_heldout", "copied_share", "sliced_wasserstein",
    "sliced_wasserstein_reference", "violation_rate", "unreadable_rate",
    "heldout", "heldout.loss", "heldout.levels", "heldout.edges",
    "metrics", "features", "bits_per_dim", "steps", "images", "seconds",
    "flops", "parameters", "samples", "samples.count", "samples.sampler", "samples.steps",
    "samples.guidance", "samples.class_count", "samples.class_guidance", "samples.seed", "provenance",
    "provenance.created", "provenance.revision", "provenance.config_sha256", "provenance.device",
    "provenance.devices", "provenance.processes", "provenance.versions",
}  # fmt: skip


def entries(**changes):
    return {
        "name": "digits_sparse",
        "class_accuracy": np.float32(0.998),
        "judge_accuracy": 0.989,
        "pixel_frechet": jnp.float32(0.71),
        "pixel_frechet_reference": 0.288,
        "nearest_train_distance": 2.345,
        "nearest_train_distance_heldout": 2.219,
        "copied_share": 0.01,
        "sliced_wasserstein": None,
        "sliced_wasserstein_reference": None,
        "violation_rate": None,
        "unreadable_rate": None,
        "heldout": {"loss": jnp.float32(0.25)} | {f"level_{j:02d}": 0.1 * (j + 1) for j in range(4)},
        "edges": np.linspace(0, 1, 5).tolist(),
        "metrics": {},
        "features": None,
        "bits_per_dim": None,
        "steps": 2000,
        "images": 256_000,
        "seconds": 143.2,
        "flops": 1.234e12,
        "parameters": np.int64(692_000),
        "samples": {
            "count": 1000,
            "sampler": "heun",
            "steps": 25,
            "guidance": 1.0,
            "class_count": 1000,
            "class_guidance": 2.0,
            "seed": 0,
        },
        "provenance": provenance({"seed": 1}),
    } | changes


def names(mapping, prefix=""):
    inner = [names(value, f"{prefix}{key}.") for key, value in mapping.items() if isinstance(value, dict)]
    return {prefix + key for key in mapping}.union(*inner)


def test_keys_are_frozen():
    assert names(SCHEMA) == KEYS
    report = make_report(**entries())
    assert {name for name in names(report) if not name.startswith(("provenance.versions.", "metrics."))} == KEYS
    assert list(report) == list(SCHEMA)


def test_json_round_trip(tmp_path):
    report = make_report(**entries(pixel_frechet=math.inf, class_accuracy=math.nan))
    save_report(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["pixel_frechet"] is None and report["class_accuracy"] is None
    assert report["heldout"]["levels"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra is unknown"),
        ({"steps": "many"}, "steps is str, not int"),
        ({"steps": True}, "steps is bool, not int"),
        ({"steps": None}, "steps is NoneType, not int"),
        ({"samples": {}}, "samples.count is missing; samples.sampler is missing"),
        ({"samples": 3}, "samples is int, not an object"),
        ({"edges": [0.0, 1.0]}, "edges must be one more than heldout.levels"),
        ({"edges": [0.0, "one"]}, r"heldout.edges\[1\] is str, not int or float"),
    ],
)
def test_bad_reports(change, message):
    with pytest.raises(ValueError, match=message):
        make_report(**entries(**change))


def test_missing_key():
    with pytest.raises(ValueError, match=r"not a report: steps is missing$"):
        validate({key: value for key, value in make_report(**entries()).items() if key != "steps"})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_accuracy": None, "judge_accuracy": None, "pixel_frechet": None, "pixel_frechet_reference": None},
        {"name": "n" * 100, "seconds": 1e7, "flops": 1e22, "parameters": 12, "images": 10**12},
        {"metrics": {"fid": 3.14159, "precision": math.nan}, "features": {"name": "inception"}},
        {"heldout": {"loss": math.nan, "level_00": math.nan, "level_01": 0.0}, "edges": [0, 0.5, 1]},
    ],
    ids=["usual", "unmeasured", "long", "metrics", "diverged"],
)
def test_table_is_aligned_and_narrow(change):
    report = make_report(**entries(**change))
    table = format_table(report)
    lines = table.splitlines()
    assert table.isascii()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines if line.startswith("-")}) == 1
    value = f"{report['steps']:,}"
    (steps,) = (line for line in lines if line.startswith(" steps "))
    (loss,) = (line for line in lines if line.startswith(" dense held-out loss "))
    assert steps.index(value) + len(value) == loss.index("  mean over")  # values end in one column
