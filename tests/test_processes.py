"""A run in two real processes over loopback: preempted, continued bit by bit, and bereft of a process."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from maskdiff_jax import main
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.writers import read_jsonl
from tests.cli import TINY, command, here

STEPS, INTERVAL = 60, 10
ARGUMENTS = (
    *TINY,
    f"--config.steps={STEPS}",
    "--config.steps_per_call=5",
    f"--config.log.checkpoint_every={INTERVAL}",
    f"--config.log.keep_every={INTERVAL}",
    f"--config.log.heldout_every={INTERVAL}",
)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """``launch(workdir)``: the run's two processes, each with a device of its own; the first coordinates.

    They compile little, and only the first time. What a test leaves running is killed.
    """
    cheap = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    started = []

    def start(workdir: Path):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        cluster = (f"--coordinator=localhost:{port}", "--num_processes=2")
        arguments = (*ARGUMENTS, f"--workdir={workdir}", *cluster)
        pair = [command(*arguments, f"--process_id={i}", env={**os.environ, **cheap}) for i in range(2)]
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(processes, seconds=240):
    """Their exit statuses, output and errors."""
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def wait_until(true: Callable[[], bool], seconds=240):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def state_at(workdir: Path, step: int):
    """The digests of all arrays and the data position of a checkpoint."""
    record = json.loads((workdir / "checkpoints" / str(step) / "record" / "metadata").read_text())
    return record["body"]["leaves"], record["body"]["data"]


def losses_of(workdir: Path) -> dict[int, float]:
    """The dense held-out loss of every measured step."""
    rows = read_jsonl(workdir / "metrics.jsonl")
    return {row["step"]: row["heldout/loss"] for row in rows if "heldout/loss" in row}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run in one process with two devices: as many devices, so the same numbers, bit by bit."""
    workdir, two = tmp_path_factory.mktemp("two") / "undisturbed", jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: two)
        assert here(*ARGUMENTS, f"--workdir={workdir}") == 0
    assert saved(workdir) == list(range(INTERVAL, STEPS + 1, INTERVAL))
    return workdir


def test_two_processes_survive_both_kinds_of_loss(launch, undisturbed, tmp_path, capsys):
    """SIGTERM to one, then SIGKILL of one: each state on the way is that of the run which nothing happened to."""
    workdir = tmp_path / "run"
    processes = launch(workdir)
    wait_until(lambda: len(saved(workdir)) > 0)
    processes[1].send_signal(signal.SIGTERM)
    status, out, _ = finish(processes)
    stopped = saved(workdir)[-1]
    assert status == [0, 0] and stopped < STEPS and f"stopped and saved at step {stopped} of {STEPS}" in out[0]
    assert "devices  2 x cpu" in out[0]
    own = [line for line in out[1].splitlines() if not line.startswith("[Gloo]")]
    assert not own  # what there is to say is said once

    survivor, killed = launch(workdir)
    wait_until(lambda: saved(workdir)[-1] > stopped and saving(workdir))
    killed.kill()  # amid a save, which cannot end
    before, began = saved(workdir), time.monotonic()
    (status,), (out,), (errors,) = finish([survivor])
    assert status == 1 and time.monotonic() - began < 30, errors[-3000:]
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "another process of this run is gone" in said[0]
    assert "Traceback" not in errors and saved(workdir)[-1] - before[-1] <= INTERVAL
    assert f"going on from step {stopped}" in out

    newest, expected = saved(workdir)[-1], losses_of(undisturbed)
    assert newest > stopped
    for step in saved(workdir):
        if step % INTERVAL == 0:
            assert state_at(workdir, step) == state_at(undisturbed, step)
    measured = {step: loss for step, loss in losses_of(workdir).items() if step <= newest}
    assert set(measured) >= {0, INTERVAL} and all(loss == expected[step] for step, loss in measured.items())

    # What SIGKILL has left goes on, here in one process on eight devices.
    assert here(*ARGUMENTS, f"--workdir={workdir}") == 0
    assert f"going on from step {newest}" in capsys.readouterr().out
    assert losses_of(workdir)[STEPS] == pytest.approx(expected[STEPS], rel=1e-4)


def test_a_run_of_two_devices_is_sampled_by_eight(undisturbed, tmp_path):
    """Another number of devices: the checkpoint of two is read and sampled."""
    params = Checkpoints(undisturbed / "checkpoints", read_only=True).read_params("first")
    assert params.step == STEPS
    assert here("--mode=sample", f"--workdir={undisturbed}", "--num=8", f"--out={tmp_path / 'eight'}") == 0
    with np.load(tmp_path / "eight.npz") as file:
        assert len(file["images"]) == 8 and json.loads(str(file["settings"]))["step"] == STEPS


def test_bad_input_of_one_process_ends_it_though_the_others_go_on(tmp_path, monkeypatch, capsys):
    """The runtime's farewell would wait for them, and abort; others that meet the same error come to it in time."""
    farewell, over, left = threading.Event(), threading.Event(), []

    def leave(status):
        left.append(status)
        sys.exit(status)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: (farewell.set(), over.wait(60)))
    monkeypatch.setattr(main, "_FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(os, "_exit", leave)
    assert here(*TINY, "--config.batch=15", f"--workdir={tmp_path / 'run'}") == 2
    assert left == [2] and farewell.wait(10)
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "a global batch of 15 does not divide" in error
    over.set()
