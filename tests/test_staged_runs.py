"""Runs of several stages, by the command line: costs, hand-over, resuming inside and at the edge, and init_from."""

import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.writers import read_jsonl
from tests.cli import TINY, here

pytestmark = pytest.mark.usefixtures("compiled_once")

STAGES = (
    "--config=configs/digits_maskdm.py",
    *TINY[1:],
    "--config.model.patch=2",
    "--config.stages[0].steps=5",
    "--config.stages[0].batch=32",
    "--config.stages[1].steps=5",
    "--config.log.checkpoint_every=8",
    "--config.ema=(0.5,)",
)


def record(workdir, step):
    """What a checkpoint says of itself: the SHA-256 of every array and the position in the data."""
    body = json.loads((workdir / "checkpoints" / str(step) / "record" / "metadata").read_text())["body"]
    return body["leaves"], body["data"]["step"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("staged") / "run"
    assert here(*STAGES, f"--workdir={workdir}") == 0
    return workdir


def test_costs_go_on_through_the_stages(finished):
    rows = {row["step"]: row for row in read_jsonl(finished / "metrics.jsonl")}
    assert rows[5]["images"] == 5 * 32 and rows[10]["images"] == 5 * 32 + 5 * 16
    masked, full = rows[5]["flops"] / 160, (rows[10]["flops"] - rows[5]["flops"]) / 80
    assert 0.2 < masked / full < 0.5
    report = json.loads((finished / "report.json").read_text())
    assert report["steps"] == 10 and report["images"] == 240 and report["flops"] == rows[10]["flops"]


@pytest.mark.parametrize("step", [5, 8])
def test_a_run_goes_on_inside_and_at_the_edge_of_a_stage(finished, tmp_path, step):
    """A run that was cut after ``step`` ends bit for bit as the one that was not."""
    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    (cut / "report.json").unlink()
    for path in (cut / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    assert (cut / "checkpoints" / str(step)).is_dir()
    assert here(*STAGES, f"--workdir={cut}") == 0
    assert record(cut, 10) == record(finished, 10)
    assert [row["step"] for row in read_jsonl(cut / "metrics.jsonl")] == [0, 5, 10]


def newest(workdir):
    with closing(Checkpoints(workdir / "checkpoints", read_only=True)) as checkpoints:
        return checkpoints.read_params().params


def test_a_run_starts_from_another_runs_parameters(finished, tmp_path, capsys):
    """With a step of no length, its parameters are those of the source; what they had cost is written down."""
    arguments = [*TINY, "--config.model.patch=2", "--config.supervision.name=dense", "--config.schedule.warmup=0"]
    frozen = ["--config.schedule.learning_rate=1e-30", "--config.steps=1", "--config.clip=1.0"]
    workdir = tmp_path / "heir"
    assert here(*arguments, *frozen, f"--config.init_from={finished}", f"--workdir={workdir}") == 0
    said = capsys.readouterr().out
    assert f"from {finished}, step 10" in said
    jax.tree.map(np.testing.assert_array_equal, newest(workdir), newest(finished))
    cost = json.loads((workdir / "transfer.json").read_text())
    report = json.loads((finished / "report.json").read_text())
    assert {key: cost[key] for key in ("steps", "images", "flops")} == {
        "steps": 10,
        "images": report["images"],
        "flops": report["flops"],
    }
    assert cost["leaves"]["kept"] and not cost["leaves"]["new"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--config.model.width=32"], "another architecture"),
        (["--config.model.name=uvit"], "another architecture"),
        (["--config.handover.renew=('nothing',)"], "nothing"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_anything_is_written(finished, tmp_path, capsys, change, message):
    workdir = tmp_path / "heir"
    arguments = [*TINY, "--config.model.patch=2", "--config.steps=1", "--config.schedule.warmup=0"]
    assert here(*arguments, f"--config.init_from={finished}", f"--workdir={workdir}", *change) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0] and str(finished) in error[0]
    assert not workdir.exists()


def test_a_source_that_is_no_network_is_refused(tmp_path, capsys):
    assert here(*TINY, f"--config.init_from={tmp_path}", f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: config.init_from: {tmp_path} holds no network: it is neither ")
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()
