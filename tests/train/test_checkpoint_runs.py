"""Checkpoints by the command line: the best, one that is named, those of another run, and a full disk."""

import json
import re
import shutil
from contextlib import closing

import numpy as np
import pytest

from maskdiff_jax import inference
from maskdiff_jax.data import ArraySource
from maskdiff_jax.sitting import StageRun
from maskdiff_jax.stages import same_run
from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from tests.cli import TINY, here
from tests.train.saved import names, rewrite, unseal
from tests.train.test_checkpoint_saving import small_files

pytestmark = pytest.mark.usefixtures("compiled_once")

SHORT = (*TINY, "--config.steps=20")
LOSSES = {0: 0.9, 5: 0.3, 10: 0.2, 15: 0.5, 20: 0.4}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A run of which step 10 is said to be the best, and 5 the next."""
    workdir = tmp_path_factory.mktemp("runs") / "ranked"
    every = [f"--config.log.{key}" for key in ("heldout_every=5", "checkpoint_every=5", "keep_latest=1", "keep_best=2")]
    with pytest.MonkeyPatch.context() as patch:
        said = lambda self, done, state: self.write(done, {"heldout_ema/loss": LOSSES[done]})  # noqa: E731
        patch.setattr(StageRun, "heldout", said)
        assert here(*SHORT, *every, f"--workdir={workdir}") == 0
    return workdir


def test_the_best_checkpoints_are_kept_and_sampled(ranked, capsys, tmp_path):
    assert names(ranked / "checkpoints") == ["10", "20", "5"]
    images = {}
    for name, step in {"best": 10, "newest": 20, "10": 10}.items():
        out = tmp_path / f"{name}.png"
        assert here("--mode=sample", f"--workdir={ranked}", "--num=8", f"--checkpoint={name}", f"--out={out}") == 0
        assert f"8 samples of step {step}" in capsys.readouterr().out
        with np.load(out.with_suffix(".npz")) as file:
            images[name] = file["images"]
    np.testing.assert_array_equal(images["best"], images["10"])
    assert not np.array_equal(images["best"], images["newest"])


@pytest.fixture(scope="module")
def unranked(tmp_path_factory):
    """Checkpoints 10 and 20, without metrics."""
    workdir = tmp_path_factory.mktemp("runs") / "unranked"
    assert here(*SHORT, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def copied(unranked, tmp_path):
    return shutil.copytree(unranked, tmp_path / "copied")


ABSENT = {
    "15": "no checkpoint 15 in {c}; there are: 10, 20",
    "bets": "no checkpoint 'bets': name a step, or newest or best; there are: 10, 20",
    "best": "no checkpoint in {c} has a metric to be the best by; there are: 10, 20",
}


@pytest.mark.parametrize("mode, name", [("sample", "15"), ("sample", "bets"), ("evaluate", "best")])
def test_a_checkpoint_that_is_not_there_is_an_error_that_lists_those_that_are(unranked, mode, name, capsys):
    assert here(f"--mode={mode}", f"--workdir={unranked}", f"--checkpoint={name}") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error == [f"error: {ABSENT[name].format(c=unranked / 'checkpoints')}"]


def test_training_takes_no_named_checkpoint(tmp_path, capsys):
    assert here(*TINY, "--checkpoint=best", f"--workdir={tmp_path / 'run'}") == 2
    assert "--checkpoint does not go with --mode=train" in capsys.readouterr().err


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_checkpoints_of_another_run_are_refused_by_the_keys_that_differ(copied, capsys):
    """The config file says another run than the checkpoints, as after a copy of either."""
    config = json.loads((copied / "config.json").read_text())
    config["optimizer"]["b2"], config["log"]["every"] = 0.95, 7
    (copied / "config.json").write_text(json.dumps(config))
    before = contents(copied)
    assert here(*SHORT, "--config.optimizer.b2=0.95", f"--workdir={copied}") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert re.fullmatch(
        rf"error: checkpoint 20 in {copied / 'checkpoints'} is of another run: "
        r"optimizer\.b2: 0\.99 in the checkpoint, 0\.95 now",
        error,
    ), error
    assert contents(copied) == before


def test_checkpoints_of_another_model_are_refused_by_the_keys_too(copied, capsys):
    """Rather than by the shapes of arrays."""
    config = json.loads((copied / "config.json").read_text())
    config["model"]["width"] = 32
    (copied / "config.json").write_text(json.dumps(config))
    assert here(*SHORT, "--config.model.width=32", f"--workdir={copied}") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "is of another run: model.width: 16 in the" in error and "32 now" in error


def test_checkpoints_of_other_data_are_refused(copied, capsys, monkeypatch):
    monkeypatch.setattr(ArraySource, "fingerprint", "another")
    before = contents(copied)
    assert here(*SHORT, f"--workdir={copied}") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "checkpoint 20" in error and "is of another run: data fingerprint: " in error
    assert contents(copied) == before


def test_a_data_position_of_another_stream_is_refused_and_nothing_changes(copied, capsys):
    """Not even what is free to change."""
    checkpoint = copied / "checkpoints" / "20"
    position = json.loads((checkpoint / "record" / "metadata").read_text())["body"]["data"]
    rewrite(checkpoint, data=position | {"fingerprint": position["fingerprint"] | {"seed": 7}})
    unseal(checkpoint)
    before = contents(copied)
    assert here(*SHORT, "--config.log.every=7", f"--workdir={copied}") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: config.data: ") and "seed" in error
    assert contents(copied) == before


def test_a_reader_refuses_another_runs_checkpoints_too(unranked):
    """What samples may be drawn otherwise, of a run whose data have changed: but it must be the run."""
    config = inference.read_config(unranked)
    with closing(Checkpoints(unranked / "checkpoints", read_only=True)) as checkpoints:
        everything_else = lambda step: {}  # noqa: E731
        config.sample.steps = 7
        for name in ("newest", "10"):
            with pytest.raises(CheckpointError, match="holds another model"):  # past the question whose it is
                checkpoints.restore_named(name, everything_else, same_run(config, checkpoints.directory))
        config.model.width = 32
        for name in ("newest", "10"):
            with pytest.raises(CheckpointError, match=rf"^checkpoint \d+ in {unranked}.* model.width: 16 in the check"):
                checkpoints.restore_named(name, everything_else, same_run(config, checkpoints.directory))


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_nothing_is_drawn_from_another_runs_checkpoint(copied, mode, capsys):
    """What is drawn may be overridden, and so may what does not matter to it; whose checkpoints they are may not."""
    config = json.loads((copied / "config.json").read_text())
    config["optimizer"]["b2"] = 0.95
    arguments = (
        f"--mode={mode}",
        f"--workdir={copied}",
        "--config=configs/digits_sparse.py",
        "--config.sample.steps=2",
    )
    if mode == "sample":
        assert here(*arguments, "--num=8", "--config.optimizer.b2=0.95") == 0
    (copied / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert here(*arguments) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"error: checkpoint 20 in {copied}/checkpoints is of another run: optimizer.b2: 0.99 ")


def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on_later(copied, capsys):
    shutil.rmtree(copied / "checkpoints" / "20")
    with small_files():
        assert here(*SHORT, f"--workdir={copied}") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error == [f"error: cannot write checkpoint 20 in {copied / 'checkpoints'}: File too large"]
    assert names(copied / "checkpoints") == ["10"]
    assert here(*SHORT, f"--workdir={copied}") == 0
    assert names(copied / "checkpoints") == ["10", "20"]
