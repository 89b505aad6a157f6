"""A run whose every step goes bad: it ends in one line, and what it leaves reproduces the first bad step."""

import json
import re

import jax
import numpy as np
import pytest

from maskdiff_jax import inference
from maskdiff_jax.data import ingest
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.checkpoint import Checkpoints
from tests.cli import TINY, here
from tests.faults.poison import Poison

pytestmark = pytest.mark.usefixtures("compiled_once", "one_device")

# The first updates make parameters of 1e30, whose products overflow.
DIVERGING = (*TINY, "--config.steps=60", "--config.schedule.learning_rate=1e30", "--config.log.checkpoint_every=5")


def test_too_many_bad_steps_end_a_run_and_can_be_reproduced(tmp_path, capsys):
    assert here(*DIVERGING, f"--workdir={tmp_path / 'run'}", "--config.guard.max_bad_steps=4") == 1
    errors = capsys.readouterr().err.strip().splitlines()
    bad = json.loads((tmp_path / "run" / "bad_step.json").read_text())
    assert bad["bad_in_row"] == 4 and not (tmp_path / "run" / "report.json").exists()
    assert errors[-1].startswith("error: 4 steps in a row had a gradient that is not finite or too large")
    assert f"from step {bad['step']} on; the newest checkpoint is step 10" in errors[-1]

    experiment = build_stages(inference.read_config(tmp_path / "run"))[0].experiment
    saved = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).read_params()  # steps that change nothing
    raw = experiment.dataset.train.fetch(np.array(bad["images"]))
    raw["controls"] = experiment.augment.controls(0, np.array(bad["images"]), experiment.dataset.shape)
    batch, key = ingest(experiment.augment, raw), jax.random.wrap_key_data(np.array(bad["key"], np.uint32))
    loss, _ = jax.jit(experiment.objective.loss)(saved.params, batch, key)
    assert not np.isfinite(loss)
    fresh = jax.jit(experiment.model.init)(jax.random.key(0))
    assert np.isfinite(jax.jit(experiment.objective.loss)(fresh, batch, key)[0])


def test_debug_nans_names_the_operation_and_where_it_stands(tmp_path, capsys):
    """The first that sees the NaN of one pixel: it picks the images of the batch."""
    poison = Poison(3, "nan").put(tmp_path / "poison")
    debug = ("--config.debug_nans=True", "--config.steps_per_call=5")
    assert here(*TINY, "--config.steps=60", *poison, f"--workdir={tmp_path / 'run'}", *debug) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(r"error: invalid value \(nan\) encountered in gather, at .*/data/device\.py:\d+: .+", error)
