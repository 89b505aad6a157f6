"""A run in two real processes over loopback: preempted, bereft of a process, and continued bit by bit."""

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskdiff_jax.train.checkpoint import Checkpoints
from tests.cli import TINY, command

STEPS, INTERVAL = 60, 10
ARGUMENTS = (
    *TINY,
    f"--config.steps={STEPS}",
    f"--config.log.checkpoint_every={INTERVAL}",
)


def launch(workdir: Path):
    """The run's two processes, each with a device of its own; the first coordinates."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cluster = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [command(*ARGUMENTS, f"--workdir={workdir}", *cluster, f"--process_id={i}") for i in range(2)]


def finish(processes, seconds=120):
    """Their exit statuses, output and errors."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def wait_until(true: Callable[[], bool], seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def last_state(workdir: Path):
    """The digests of all arrays and the data position of the newest checkpoint."""
    step = saved(workdir)[-1]
    record = json.loads((workdir / "checkpoints" / str(step) / "record" / "metadata").read_text())
    return step, record["body"]["leaves"], record["body"]["data"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "undisturbed"
    status, out, errors = finish(launch(workdir))
    assert status == [0, 0], errors
    assert "devices  2 x cpu" in out[0] and "dense held-out loss" in out[0]
    own = [line for line in out[1].splitlines() if not line.startswith("[Gloo]")]
    assert not own  # what there is to say is said once
    return workdir


def test_two_processes_survive_both_kinds_of_loss(undisturbed, tmp_path):
    """SIGKILL of one, then SIGTERM to one, then nothing: the end is that of the run which nothing happened to."""
    workdir = tmp_path / "run"
    killed, survivor = reversed(launch(workdir))
    wait_until(lambda: len(saved(workdir)) > 0)
    killed.kill()
    before, began = saved(workdir), time.monotonic()
    (status,), _, (errors,) = finish([survivor])
    finish([killed])
    assert status == 1 and time.monotonic() - began < 30
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "another process of this run is gone" in said[0]
    assert "Traceback" not in errors and saved(workdir)[-1] - before[-1] <= INTERVAL

    processes = launch(workdir)
    wait_until(lambda: saved(workdir)[-1] >= before[-1] + INTERVAL)
    processes[1].send_signal(signal.SIGTERM)
    status, out, _ = finish(processes)
    assert status == [0, 0] and "going on from step" in out[0]
    assert f"stopped and saved at step {saved(workdir)[-1]} of {STEPS}" in out[0] and saved(workdir)[-1] < STEPS

    status, _, _ = finish(launch(workdir))
    assert status == [0, 0]
    assert last_state(workdir) == last_state(undisturbed)
    losses = [json.loads((path / "report.json").read_text())["heldout"]["loss"] for path in (workdir, undisturbed)]
    assert losses[0] == losses[1]


def test_one_process_goes_on_where_two_were(undisturbed, tmp_path, monkeypatch):
    """Another number of hosts: equal values, the same next batch. The checkpoint of two is read by one, and sampled."""
    with_one = Checkpoints(undisturbed / "checkpoints", read_only=True)
    params = with_one.read_params("first")
    assert params.step == STEPS
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    process = command("--mode=sample", f"--workdir={undisturbed}", "--num=4", f"--out={tmp_path / 'four'}")
    assert process.communicate(timeout=60) and process.returncode == 0
    assert (tmp_path / "four.png").exists()
