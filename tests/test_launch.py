"""The launch scripts: what they would run, and that they really run it, with stand-ins for the tools of a cluster."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.standins import Fake, script

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
LOCAL, TPU, SLURM = LAUNCH / "local.sh", LAUNCH / "tpu_pod.sh", LAUNCH / "slurm.sbatch"
SLICE = ("--name=pod", "--zone=z", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite")
RUN = ("--", "--config=digits_sparse", "--workdir=/runs/a b", "--config.name=it's")


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path)


def commands(out: str) -> list[list[str]]:
    return [shlex.split(line) for line in out.splitlines()]


@pytest.mark.parametrize("path", [LOCAL, TPU, SLURM], ids=lambda path: path.name)
def test_scripts_are_clean_and_explain_themselves(path, fake):
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "shellcheck is missing: pip install -e '.[dev]'"
    assert fake.run(found, path) == (0, "", "")
    status, out, err = fake.run("bash", path, "--help")
    assert (status, err) == (0, "") and out.startswith("Usage: ") and "--dry-run" in out and "-- --config=" in out


BAD = {
    "local, no number": (LOCAL, ["--", "--config=a"], "--processes=N is missing"),
    "local, no processes": (LOCAL, ["--processes=0", "--", "--config=a"], "--processes=0: must be a whole number"),
    "local, no trainer": (LOCAL, ["--processes=2"], "give the trainer's options after --"),
    "local, nothing after --": (LOCAL, ["--processes=2", "--"], "give the trainer's options after --"),
    "local, option before --": (LOCAL, ["--config=a"], "unknown option --config=a"),
    "local, too few GPUs": (LOCAL, ["--processes=4", "--", "--config=a"], "3 GPUs do not suffice for 4 processes"),
    "tpu, no name": (TPU, ["--zone=z"], "--name=NAME of the slice is missing"),
    "tpu, no workdir": (TPU, [*SLICE, "--", "--config=a"], "--workdir=/DIR is missing"),
    "tpu, bucket": (TPU, [*SLICE, "--", "--workdir=gs://b/a"], "gs:// is not supported"),
    "tpu, restarts": (TPU, [*SLICE, "--restarts=-1", "--", "--workdir=/a"], "--restarts=-1: must be a whole number"),
    "slurm, no workdir": (SLURM, ["--", "--config=a"], "--workdir=DIR is missing"),
    "slurm, sbatch's option": (SLURM, ["--nodes=2", "--"], "unknown option --nodes=2"),
    "slurm, outside a job": (SLURM, ["--", "--workdir=a"], "submit it with sbatch"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_missing_is_one_line_and_status_two(case, fake):
    path, options, text = BAD[case]
    status, out, err = fake.run("bash", path, *options, CUDA_VISIBLE_DEVICES="0,1,2")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 and err.startswith("error: ") and text in err


@pytest.mark.parametrize(
    "options, gpus, devices",
    [
        ([], "4,5,6,7,8", ["CUDA_VISIBLE_DEVICES=4,5", "CUDA_VISIBLE_DEVICES=6,7"]),
        (["--devices-per-process=1"], "4,5,6", ["CUDA_VISIBLE_DEVICES=4", "CUDA_VISIBLE_DEVICES=5"]),
        (["--devices-per-process=3"], "", ["JAX_NUM_CPU_DEVICES=3"] * 2),
    ],
)
def test_local_gives_each_process_its_number_and_devices(options, gpus, devices, fake):
    options = ["--processes=2", "--port=1234", "--dry-run", *options]
    status, out, err = fake.run("bash", LOCAL, *options, *RUN, CUDA_VISIBLE_DEVICES=gpus)
    assert (status, err) == (0, "") and not fake.noted(0)
    cluster = ["JAX_COORDINATOR_ADDRESS=127.0.0.1:1234", "JAX_NUM_PROCESSES=2"]
    trainer = [str(fake.python), "-m", "maskdiff_jax.main", *RUN[1:]]
    expected = [["env", *cluster, f"JAX_PROCESS_ID={i}", devices[i], *trainer] for i in range(2)]
    expected[1] += [">LOGS/process_1.log", "2>&1"]
    assert commands(out) == expected


def test_local_starts_the_processes_and_shows_the_first(fake):
    logs = fake.folder / "logs"
    run = [*RUN[:-1], f"--workdir={fake.folder}/run", "--then=report"]
    status, out, err = fake.run("bash", LOCAL, "--processes=3", f"--logs={logs}", *run, JAX_PLATFORMS="cpu")
    assert (status, err) == (0, "") and str(logs) in out and fake.noted(0)[0] in out and fake.noted(1)[0] not in out
    started = [json.loads(fake.noted(i)[0]) for i in range(3)]
    assert all(argv == ["-m", "maskdiff_jax.main", *run[1:]] for argv, _ in started)
    [address] = {environ["JAX_COORDINATOR_ADDRESS"] for _, environ in started}
    assert re.fullmatch(r"127\.0\.0\.1:\d{5}", address)
    numbers = [(e["JAX_NUM_PROCESSES"], e["JAX_PROCESS_ID"], e["JAX_NUM_CPU_DEVICES"]) for _, e in started]
    assert numbers == [("3", "0", "1"), ("3", "1", "1"), ("3", "2", "1")]
    assert fake.noted(2) == (logs / "process_2.log").read_text().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_a_signal_on_to_all(number, fake):
    process = fake.start("bash", LOCAL, "--processes=2", *RUN, "--then=wait", JAX_PLATFORMS="cpu")
    fake.wait_for(0, 1)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert [fake.noted(i)[-1] for i in range(2)] == ["stopped"] * 2


def test_a_second_signal_kills(fake):
    process = fake.start("bash", LOCAL, "--processes=2", *RUN, "--deaf", "--then=wait", JAX_PLATFORMS="cpu")
    fake.wait_for(0, 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_process_that_fails_ends_the_others_and_is_the_status(fake):
    status, _, err = fake.run("bash", LOCAL, "--processes=3", *RUN, "--then=fail_alone", JAX_PLATFORMS="cpu")
    assert status == 7 and err.startswith("error: a process ended with status 7") and len(err.splitlines()) == 1


def test_tpu_commands(fake):
    options = ["--project=p", "--spot", "--create=--subnetwork=s", "--setup=mount a b", "--dry-run"]
    status, out, err = fake.run("bash", TPU, *SLICE, *options, *RUN)
    assert (status, err) == (0, "")
    archive, create, copied, install, setup, train, done = commands(out)
    assert archive[:2] == ["git", "archive"] and archive[-1] == "HEAD"
    pod = ["gcloud", "compute", "tpus", "tpu-vm"]
    place = ["--project=p", "--zone=z"]
    kind = ["--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"]
    assert create == [*pod, "create", "pod", *place, *kind, "--spot", "--subnetwork=s"]
    assert copied == [*pod, "scp", "maskdiff.tar.gz", "pod:maskdiff.tar.gz", *place, "--worker=all"]
    for command in (install, setup, train):
        assert command[:-1] == [*pod, "ssh", "pod", *place, "--worker=all"]
    assert "./code[tpu]" in install[-1] and setup[-1] == "--command=mount a b"
    [started] = re.findall(r"nohup (.*?); echo", train[-1])  # what the remote shell will read
    trainer = ["../venv/bin/python", "-m", "maskdiff_jax.main", "--coordinator=auto"]
    assert shlex.split(started) == [*trainer, *RUN[1:]]
    assert done[:-1] == [*pod, "ssh", "pod", *place, "--worker=0"]
    assert shlex.split(done[-1].removeprefix("--command=")) == ["test", "-s", "/runs/a b/report.json"]


@pytest.fixture
def cloud(fake):
    """gcloud with one slice of one host, which is $HOME here; its uv makes the trainer above the interpreter."""
    fake.tool("sleep", "exit 0")
    fake.tool("git", '[[ $1 != archive ]] || tar -czf "${3#*=}" -C "$FAKE" plan')
    fake.tool("python3", "exit 0")
    script(
        Path(fake.environ["HOME"], ".local/bin/uv"),
        '#!/usr/bin/env bash\nmkdir -p venv/bin && cp "$FAKE/python" venv/bin/ && ln -sf /bin/true venv/bin/pip\n',
    )
    fake.tool(
        "gcloud",
        """case $4 in
        describe) cat "$FAKE/state" || exit 1 ;;
        create) echo READY >"$FAKE/state" ;;
        delete) rm -r "$FAKE/state" "$HOME/maskdiff" ;;
        scp) cp "$5" "$HOME/${6#*:}" ;;
        ssh) for word; do [[ $word != --command=* ]] || (cd "$HOME" && exec bash -c "${word#*=}") || exit; done ;;
        esac""",
    )
    return fake


def plan(fake: Fake, *what: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """A run whose trainer does these things, one in each start."""
    (fake.folder / "plan").write_text(" ".join(what))
    return fake.run("bash", TPU, *SLICE, *options, "--", f"--workdir={fake.folder}/run", "--then=next_of_plan")


def test_a_preempted_slice_is_made_again_and_the_run_goes_on_until_its_report(cloud):
    status, out, err = plan(cloud, "preempt", "save", "report")
    assert status == 0, err
    assert "finished" in out and err.count("the run was interrupted") == 2 and len(cloud.noted(0)) == 3
    assert (cloud.calls("create"), cloud.calls("delete"), cloud.calls("scp")) == (2, 1, 3)


def test_a_run_that_fails_is_not_repeated(cloud):
    status, _, err = plan(cloud, "fail", "report")
    assert status == 7 and "the run failed with exit status 7" in err and len(cloud.noted(0)) == 1


def test_restarts_end(cloud):
    status, _, err = plan(cloud, "save", "save", "report", options=("--restarts=1",))
    assert status == 1 and "interrupted more than 1 times" in err and len(cloud.noted(0)) == 2


def test_a_host_that_is_training_is_watched_not_started_again(cloud):
    """gcloud repeats a command whose connection was lost."""
    _, out, _ = cloud.run("bash", TPU, *SLICE, "--dry-run", "--", "--workdir=/a", "--then=brief")
    _, remote = commands(out)[-2][-1].split("=", 1)
    home = Path(cloud.environ["HOME"], "maskdiff")
    (home / "code").mkdir(parents=True)
    (home / "venv/bin").mkdir(parents=True)
    cloud.python.rename(home / "venv/bin/python")
    first = cloud.start("bash", "-c", f"cd; {remote}")
    cloud.wait_for(0)
    second = cloud.start("bash", "-c", f"cd; {remote}")
    printed = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [3, 3]
    assert printed[0] == printed[1] and printed[0].splitlines() == cloud.noted(0) and len(cloud.noted(0)) == 2


def test_slurm_commands_and_directives(fake):
    status, out, err = fake.run("bash", SLURM, "--dry-run", *RUN)
    assert (status, err) == (0, "")
    step, again = commands(out)
    trainer = [str(fake.python), "-m", "maskdiff_jax.main", *RUN[1:]]
    assert step == ["srun", "--kill-on-bad-exit=1", "--cpu-bind=none", *trainer]
    assert again == ["test", "-s", "/runs/a b/report.json", "||", "scontrol", "requeue", "JOB"]
    directives = re.findall(r"^#SBATCH (\S+)$", SLURM.read_text(), re.MULTILINE)
    # without B:, the signal goes to the processes of the step
    assert {"--signal=TERM@180", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(directives)


@pytest.mark.parametrize(
    "then, options, status, requeued",
    [("report", [], 0, 0), ("save", [], 0, 1), ("fail", [], 7, 0), ("save", ["--mode=sample"], 0, 0)],
)
def test_slurm_puts_an_unfinished_run_back_into_the_queue(then, options, status, requeued, fake):
    fake.tool("srun", '"${@:3}"')
    fake.tool("scontrol", "")
    run = ["--", f"--workdir={fake.folder}/run", *options, f"--then={then}"]
    assert fake.run("bash", SLURM, *run, SLURM_JOB_ID="5")[0] == status
    assert fake.calls("srun") == 1 and fake.calls("requeue 5") == requeued
