"""Several steps in one call of the compiled program: the same run, whatever their number."""

import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from maskdiff_jax.data.pipeline import shuffled
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.writers import read_jsonl
from tests.cli import TINY, here
from tests.faults.poison import IMAGES, Poison

pytestmark = pytest.mark.usefixtures("compiled_once", "one_device")

STEPS, BATCH = 18, 16
ARGUMENTS = (
    *TINY,
    f"--config.steps={STEPS}",
    f"--config.batch={BATCH}",
    "--config.log.every=7",
    "--config.log.checkpoint_every=7",
    "--config.log.keep_every=7",
)


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    """Data of which a batch in four makes a step that is skipped."""
    return Poison(3, "nan").put(tmp_path_factory.mktemp("data") / "poison")


def end_of(workdir):
    """All means of the last checkpoint, the position in the data, and the lines of metrics.jsonl."""
    with closing(Checkpoints(workdir / "checkpoints", read_only=True)) as checkpoints:
        params = checkpoints.read_params("first").params
    record = json.loads((workdir / "checkpoints" / str(STEPS) / "record" / "metadata").read_text())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(workdir / "metrics.jsonl")]
    return params, record["body"]["data"], rows


def test_a_run_goes_on_with_another_number_of_steps_per_call(poison, tmp_path, capsys):
    """From step 7 to 11, 12, 13, 14 and 18: calls end where a line and a checkpoint are due."""
    one = tmp_path / "one"
    assert here(*ARGUMENTS, *poison, f"--workdir={one}") == 0
    four = shutil.copytree(one, tmp_path / "four")
    for step in (14, STEPS):
        shutil.rmtree(four / "checkpoints" / str(step))
    assert here(*ARGUMENTS, *poison, "--config.steps_per_call=4", f"--workdir={four}") == 0
    assert "going on from step 7" in capsys.readouterr().out
    (expected, position, lines), (params, ours, rows) = end_of(one), end_of(four)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)
    assert ours == position and len(rows) == len(lines) and lines[-1]["train/skipped_total"] > 2
    for row, line in zip(rows, lines, strict=True):
        assert row == pytest.approx(line, rel=1e-4)
    assert json.loads((four / "config.json").read_text())["steps_per_call"] == 4


def test_the_first_bad_step_is_found_inside_a_call(poison, tmp_path, capsys):
    batches = shuffled(np.arange(BATCH * STEPS), IMAGES, 0).reshape(STEPS, BATCH)
    first = int(np.argmax(np.any(batches == 3, axis=1)))
    options = ("--config.steps_per_call=4", "--config.guard.max_bad_steps=1", f"--workdir={tmp_path / 'run'}")
    assert here(*ARGUMENTS, *poison, *options) == 1
    assert f"from step {first} on" in capsys.readouterr().err
    bad = json.loads((tmp_path / "run" / "bad_step.json").read_text())
    assert (bad["step"], bad["stream_position"], bad["bad_in_row"]) == (first, first, 1)
    assert bad["images"] == batches[first].tolist()


def test_calls_fit_between_what_is_logged(tmp_path, capsys):
    assert here(*TINY, "--config.steps_per_call=6", f"--workdir={tmp_path / 'run'}") == 2
    assert "config.steps_per_call: at most log.every=5, got 6" in capsys.readouterr().err
