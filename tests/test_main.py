"""The command line: bad input, a whole run, resuming after kill -9, a flipped bit, sampling and evaluating."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.evaluate.report import validate
from maskdiff_jax.train.writers import read_jsonl
from tests.cli import TINY, command, here

BAD = {
    "unknown name": (
        ["--config.supervision.name=sparze"],
        "config.supervision.name: unknown 'sparze' (did you mean 'sparse'?); choose from dense, sparse",
    ),
    "misspelt option": (
        ["--config.supervision.ratoi=0.9"],
        "config.supervision.ratoi: 'sparse' has no such option (did you mean 'ratio'?)",
    ),
    "misspelt key": (["--config.stepz=9"], "config.stepz: no such key (did you mean 'steps'?)"),
    "misspelt flag": (["--wrkdir=x"], "wrkdir"),
    "not a number": (["--config.steps=many"], "many"),
    "no value": (["--config.shift=None"], "config.shift: cannot be None; the default is 1.0"),
    "ratio": (["--config.supervision.ratio=1.0"], "ratio=1.0"),
    "patch": (["--config.model.patch=3"], "patch=3 does not divide an image of 8×8"),
    "flag of another mode": (["--num=3"], "--num does not go with --mode=train"),
    "stray argument": (["now"], "unexpected argument 'now'"),
    "data set that is not prepared": (
        [
            "--config.data.name=tfds",
            "--config.data.dataset=cifar10",
            "--config.data.data_dir={empty}",
            "--config.data.download=False",
        ],
        "cifar10",
    ),
    "argument of a config": (["--config=configs/digits_controls.py:tangled"], "choose from disentangled, entangled"),
    "missing config file": (["--config=configs/nothing.py"], "configs/nothing.py"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_status_two_and_writes_nothing(case, tmp_path, capsys):
    arguments, text = BAD[case]
    empty, workdir = tmp_path / "empty", tmp_path / "run"
    empty.mkdir()
    assert here(*TINY, f"--workdir={workdir}", *(a.format(empty=empty) for a in arguments)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and text in error[0]
    if "data set" in case:
        assert str(empty) in error[0]
    assert not workdir.exists() and not list(empty.iterdir())


def test_no_free_disk_is_said_before_anything_is_written(tmp_path, capsys, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert here(*TINY, f"--workdir={tmp_path / 'run'}") == 2
    assert "not enough disk" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_real_process_exits_with_two(tmp_path):
    process = command(*TINY, "--config.supervision.ratio=-1", f"--workdir={tmp_path / 'run'}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert err.strip() == "error: config.supervision: ratio=-1.0: the fraction masked must be at least 0 and below 1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, in this process."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    extra = [
        "--config.steps=20",
        "--config.evaluate.num=40",
        "--config.log.sample_every=10",
        "--config.log.heldout_every=10",
        "--config.log.page=True",
    ]
    assert here(*TINY, *extra, f"--workdir={workdir}") == 0
    return workdir


def test_a_run_leaves_what_the_readme_lists(finished):
    there = {path.name for path in finished.iterdir()}
    assert there == {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "report.json",
        "report.html",
        "parameters.txt",
    }
    report = json.loads((finished / "report.json").read_text())
    validate(report)
    assert report["steps"] == 20 and report["images"] == 320 and report["name"] == "digits_sparse"
    assert 0 <= report["class_accuracy"] <= 1 and report["judge_accuracy"] > 0.95
    rows = {row["step"]: row for row in read_jsonl(finished / "metrics.jsonl")}
    assert set(rows) >= {0, 5, 10, 15, 20}
    assert {"heldout/loss", "heldout/level_00", "heldout_ema/loss"} <= rows[0].keys()
    assert rows[20]["images"] == 320 and rows[20]["flops"] > 0 and rows[20]["seconds"] > rows[5]["seconds"] > 0
    assert {path.name for path in (finished / "samples").iterdir()} >= {
        "step_0000010.png",
        "step_0000020.png",
        "final.png",
    }
    assert list((finished / "tensorboard").iterdir())


def test_sample_needs_the_workdir_alone(finished, capsys, tmp_path):
    out = tmp_path / "threes.png"
    arguments = [
        "--mode=sample",
        f"--workdir={finished}",
        "--num=6",
        "--labels=3,7",
        "--steps=2",
        "--guidance=2",
        "--sampler=heun",
    ]
    assert here(*arguments, f"--out={out}") == 0
    with np.load(out.with_suffix(".npz")) as file:
        assert file["images"].shape == (6, 8, 8, 1) and file["images"].dtype == np.uint8
        np.testing.assert_array_equal(file["labels"], [3, 7, 3, 7, 3, 7])
        images = file["images"]
    with Image.open(out) as picture:
        assert picture.size > (100, 50)
    again = tmp_path / "again.png"
    assert here(*arguments, f"--out={again}") == 0
    with np.load(again.with_suffix(".npz")) as file:
        np.testing.assert_array_equal(file["images"], images)
    assert here(*arguments, f"--out={out}") == 2  # nothing that exists is overwritten
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--labels=11"], "choose from 0 to 9"),
        (["--sampler=hun"], "did you mean 'heun'?"),
        (["--workdir={empty}"], "config.json not found"),
    ],
)
def test_bad_sampling_requests(finished, arguments, text, tmp_path, capsys):
    arguments = [a.format(empty=tmp_path) for a in arguments]
    assert here("--mode=sample", f"--workdir={finished}", "--num=2", *arguments) == 2
    assert text in capsys.readouterr().err


def test_evaluate_rewrites_the_report(finished, capsys):
    before = json.loads((finished / "report.json").read_text())
    assert here("--mode=evaluate", f"--workdir={finished}", "--num=40") == 0
    after = json.loads((finished / "report.json").read_text())
    same = [key for key in before if key not in ("provenance", "samples")]
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert "pixel Frechet" in capsys.readouterr().out


def test_a_workdir_of_another_config_is_refused_with_the_keys_that_differ(finished, capsys):
    listing = sorted(str(path) for path in finished.rglob("*"))
    assert (
        here(
            *TINY,
            "--config.steps=20",
            "--config.optimizer.b2=0.95",
            "--config.supervision.ratio=0.9",
            f"--workdir={finished}",
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "optimizer.b2: 0.99 in the workdir, 0.95 now" in error
        and "supervision.ratio: 0.5 in the workdir, 0.9 now" in error
    )
    assert sorted(str(path) for path in finished.rglob("*")) == listing


def record_of(workdir, step):
    """What a checkpoint says of itself: the SHA-256 of every array of the state, and the data position."""
    body = json.loads((workdir / "checkpoints" / str(step) / "record" / "metadata").read_text())["body"]
    return body["leaves"], body["data"]


def test_killed_runs_continue_bit_identically_and_a_flipped_bit_is_noticed(tmp_path):
    """kill -9 in mid-run, the same command again; then one flipped bit in the newest checkpoint, and again."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    arguments = (*TINY, "--config.steps=60", "--config.augment.name=crop", "--config.augment.pad=1")
    whole = command(*arguments, f"--workdir={straight}")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | cache  # the second start of the killed run compiles nothing
    killed = command(*arguments, f"--workdir={broken}", start_new_session=True, env=environment)
    deadline = time.monotonic() + 240
    while not (broken / "checkpoints" / "20").exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    steps = sorted(int(path.name) for path in (broken / "checkpoints").iterdir() if path.name.isdigit())
    assert steps and steps[-1] < 60, "the run was over before it was killed"

    newest = max(
        (path for path in (broken / "checkpoints" / str(steps[-1]) / "state").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(newest.read_bytes())
    place = random.Random(0).randrange(len(content))
    content[place] ^= 1 << 3
    newest.write_bytes(content)

    again = command(*arguments, f"--workdir={broken}", env=environment)
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert f"checkpoint {steps[-1]} is damaged" in out + err and "going on from step" in out
    (leaves, position), (expected, expected_position) = record_of(broken, 60), record_of(straight, 60)
    assert leaves == expected and position == expected_position
    assert any("ema" in path for path in leaves) and any("params" in path for path in leaves)
    losses = [
        {row["step"]: row["train/loss"] for row in read_jsonl(d / "metrics.jsonl") if "train/loss" in row}
        for d in (broken, straight)
    ]
    assert losses[0] == losses[1] and set(losses[0]) == set(range(5, 61, 5))


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):
    workdir = tmp_path / "run"
    process = command(*TINY, "--config.steps=1000000", "--config.log.checkpoint_every=0", f"--workdir={workdir}")
    metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and "train/loss" in metrics.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped and saved at step" in out and f"--workdir={workdir}" in out
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1
