"""The Swiss roll: a short run of its config, and the pure figures of its benchmark against closed forms."""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.swissroll import METRIC, after, floor, measure, to_target
from maskdiff_jax.data.swissroll import FRESH_DISTANCE, GAP, SIDE
from maskdiff_jax.evaluate.curves import AXES, Curve
from maskdiff_jax.train.writers import read_jsonl
from tests.cli import here

SHORT = (
    "--config=configs/swissroll_maskdm.py",
    "--config.stages=()",  # half of what two stages compile; tests/test_staged_runs.py has those
    "--config.steps=3",
    "--config.batch=16",
    "--config.data.train=200",
    "--config.data.heldout=40",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.schedule.warmup=1",
    "--config.sample.steps=2",
    "--config.sample.num=40",
    "--config.evaluate.num=40",
    "--config.evaluate.batch=40",
    "--config.evaluate.images=40",
    "--config.log.every=1",
    "--config.log.heldout_every=0",
)


def test_a_short_run_leaves_its_density_and_its_distance(tmp_path):
    workdir = tmp_path / "run"
    assert here(*SHORT, f"--workdir={workdir}") == 0
    for name in ("step_0000003", "final"):
        with Image.open(workdir / "samples" / f"{name}.png") as picture:
            assert picture.size == (2 * SIDE + 3 * GAP, SIDE + 2 * GAP)
    report = json.loads((workdir / "report.json").read_text())
    measured = {row["step"]: row[METRIC] for row in read_jsonl(workdir / "metrics.jsonl") if METRIC in row}
    assert list(measured) == [3]
    values = [report["sliced_wasserstein"], report["sliced_wasserstein_reference"], *measured.values()]
    assert all(math.isfinite(value) and value > 0 for value in values)


def line(start):
    """From ``start`` at step 0, 1 less every 1,000 steps; 2 FLOPs and half a second a step."""
    steps = np.arange(0.0, 1001, 100)
    return Curve({"steps": steps, "flops": 2 * steps, "seconds": steps / 2}, start - steps / 1000)


def test_the_cost_to_a_target_is_read_off_the_line_and_summarised_over_seeds():
    found = to_target([line(start) for start in (0.95, 1.0, 1.05)], 0.35)
    half = 4.302653 * 50 / math.sqrt(3)  # Student's t with 2 degrees of freedom
    for axis, per_step in zip(AXES, (1, 2, 0.5), strict=True):
        np.testing.assert_allclose(found[axis]["seeds"], per_step * np.array([600, 650, 700]))
        np.testing.assert_allclose([found[axis]["mean"], found[axis]["half_width"]], per_step * np.array([650, half]))
    assert (found["runs"], found["reached"], found["ended"]) == (3, 3, 3)


def test_seeds_that_never_reach_the_target_are_counted_and_left_out():
    back = line(1.0)
    back.value[-1] = 0.5  # there at step 600 and away again at the end
    found = to_target([line(2.0), back], 0.4)
    assert (found["runs"], found["reached"], found["ended"]) == (2, 1, 0)
    assert found["steps"] == {"seeds": [None, pytest.approx(600)], "mean": pytest.approx(600), "half_width": None}
    none = to_target([line(2.0)], 0.4)
    assert none["reached"] == 0 and none["flops"] == {"seeds": [None], "mean": None, "half_width": None}


@pytest.mark.parametrize("edge", [0, 300, 350])
def test_without_pretraining_every_cost_is_less_by_that_of_the_edge(edge):
    whole, rest = (to_target([curve], 0.35) for curve in (line(1.0), after(line(1.0), edge)))
    for axis, per_step in zip(AXES, (1, 2, 0.5), strict=True):
        assert whole[axis]["mean"] - rest[axis]["mean"] == pytest.approx(per_step * edge)


def test_both_arms_at_equal_flops():
    slow = line(1.0)
    dear = slow._replace(cost=slow.cost | {"flops": 4 * slow.cost["steps"]})  # half as far for the same FLOPs
    found = measure({"scratch": [slow, line(1.2)], "maskdm": [dear]}, 400, 0.35)
    np.testing.assert_allclose([row["flops"] for row in found["equal FLOPs"]], [1000, 1500, 2000])
    np.testing.assert_allclose([row["scratch"]["mean"] for row in found["equal FLOPs"]], [0.6, 0.35, 0.1])
    np.testing.assert_allclose([row["maskdm"]["mean"] for row in found["equal FLOPs"]], [0.75, 0.625, 0.5])
    assert found["primer"]["mean"] == pytest.approx(0.6)
    assert [found["cost"][f"maskdm, pre-training {how}"]["steps"]["mean"] for how in ("included", "excluded")] == [
        pytest.approx(650),
        pytest.approx(250),
    ]


def test_fresh_points_read_what_the_sizes_of_the_two_sets_say():
    """The squared distance of two fresh sets of n and m goes as 1/n + 1/m."""
    found = floor(ConfigDict({"name": "swissroll", "train": 2000, "heldout": 500}), count=500, sets=6)
    expected = FRESH_DISTANCE * math.sqrt((1 / 500 + 1 / 2500) / (2 / 10_000))
    assert found.mean == pytest.approx(expected, rel=0.35)
    wide = floor(ConfigDict({"name": "swissroll", "train": 2000, "heldout": 500, "noise": 3.0}), count=500, sets=2)
    assert wide.mean < 2 * expected  # of the same noise, or it would be far
