"""Who a process is among those of its run, from flags and environments; and that they really find each other."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from maskdiff_jax.distributed import HEARTBEAT_SECONDS, Cluster, DistributedError, find, start

ROOT = Path(__file__).resolve().parents[1]

JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4"}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "node[03-06]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1"}
ONE_HOST = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
VALUES = ("10.0.0.1:1234", 4, 3)

FOUND = {
    "nothing": ({}, (), None),
    "flags": ({}, VALUES, Cluster("flags", *VALUES)),
    "one process by flags": ({}, ("localhost:1", 1, 0), Cluster("flags", "localhost:1", 1, 0)),
    "IPv6": ({}, ("[::1]:65535", 2, 0), Cluster("flags", "[::1]:65535", 2, 0)),
    "environment": (JAX | {"JAX_PROCESS_ID": "3"}, (), Cluster("environment", *VALUES)),
    "indexed job": (JAX | {"JOB_COMPLETION_INDEX": "3"}, (), Cluster("environment", *VALUES)),
    "both": (JAX | {"JAX_PROCESS_ID": "3", "JOB_COMPLETION_INDEX": "0"}, (), Cluster("environment", *VALUES)),
    "another indexed job": ({"JOB_COMPLETION_INDEX": "3"}, (), None),
    "empty variables": (dict.fromkeys([*JAX, "JAX_PROCESS_ID"], ""), (), None),
    "Slurm, a task for each node": (SLURM, (), Cluster("Slurm", None, 4, 3, whole_host=True)),
    "Slurm, a task for each GPU": (SLURM | {"SLURM_STEP_NUM_NODES": "2"}, (), Cluster("Slurm", None, 4, 3)),
    "Slurm, one task": (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, (), None),
    "Slurm, batch script": ({k: v for k, v in SLURM.items() if "STEP" not in k}, (), None),
    "GKE, TPU slice": (GKE, (), Cluster("Cloud TPU", None, 4, 1)),
    "GKE, two slices": (GKE | SLICES, (), Cluster("Cloud TPU", None, 8, 5)),
    "GKE, two slices of one host": (ONE_HOST | SLICES, (), Cluster("Cloud TPU", None, 2, 1)),
    "TPU, single host": (ONE_HOST, (), None),
    "flags before all": (JAX | SLURM | GKE, ("b:1", 2, 1), Cluster("flags", "b:1", 2, 1)),
    "environment before Slurm": (SLURM | JAX | {"JAX_PROCESS_ID": "3"}, (), Cluster("environment", *VALUES)),
    "Slurm before TPU": (GKE | SLURM, (), Cluster("Slurm", None, 4, 3, whole_host=True)),
    "auto, nothing known": ({}, ("auto",), Cluster("jax's own detection")),
    "auto, known": (SLURM, ("auto",), Cluster("Slurm", None, 4, 3, whole_host=True)),
    "auto, single host": (ONE_HOST, ("auto",), Cluster("jax's own detection")),
}  # fmt: skip

REFUSED = {
    "coordinator alone": ({}, ("a:1",), "--coordinator is set without --num_processes and --process_id"),
    "process alone": ({}, (None, None, 0), "--process_id is set without --coordinator and --num_processes"),
    "auto and a count": ({}, ("auto", 2), "leave them out"),
    "process too high": ({}, ("a:1", 2, 2), "--process_id=2: must be from 0 to 1, because --num_processes=2"),
    "negative process": ({}, ("a:1", 2, -1), "--process_id=-1"),
    "no processes": ({}, ("a:1", 0, 0), "--num_processes=0: must be at least 1"),
    "no port": ({}, ("10.0.0.1", 2, 0), "--coordinator='10.0.0.1': must be host:port"),
    "no host": ({}, (":1234", 2, 0), "--coordinator=':1234': must be host:port"),
    "port too high": ({}, ("a:65536", 2, 0), "port from 1 to 65535"),
    "flags do not mix with the environment": (JAX, (None, 2, 1), "is set without --coordinator"),
    "no process in the environment": (JAX, (), "JAX_COORDINATOR_ADDRESS is set without JAX_PROCESS_ID"),
    "no address": ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, (), "without JAX_COORDINATOR_ADDRESS"),
    "not a number": (JAX | {"JAX_PROCESS_ID": "one"}, (), "JAX_PROCESS_ID='one': must be a whole number"),
    "index too high": (JAX | {"JOB_COMPLETION_INDEX": "4"}, (), "JOB_COMPLETION_INDEX=4: must be from 0 to 3"),
    "tasks": (SLURM | {"SLURM_NTASKS": "8"}, (), "SLURM_NTASKS=8 contradicts SLURM_STEP_NUM_TASKS=4"),
    "task too high": (SLURM | {"SLURM_PROCID": "4"}, (), "SLURM_PROCID=4: must be from 0 to 3"),
    "worker without a number": ({"TPU_WORKER_HOSTNAMES": "a,b"}, (), "TPU_WORKER_ID is not set"),
    "slice without a number": (GKE | {"MEGASCALE_NUM_SLICES": "2"}, (), "MEGASCALE_SLICE_ID is not set"),
    "worker too high": (GKE | {"TPU_WORKER_ID": "4"}, (), "the number of this TPU host=4"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_a_process_knows_who_it_is(case):
    environ, flags, expected = FOUND[case]
    before = dict(environ)
    assert find(environ, *flags) == expected and environ == before


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_contradictory_is_one_line(case):
    environ, flags, text = REFUSED[case]
    with pytest.raises(ValueError) as error:
        find(environ, *flags)
    assert text in str(error.value) and "\n" not in str(error.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def line(cluster: Cluster, timeout: int = 1) -> str:
    """The one line with which a start ends that must fail."""
    with pytest.raises(DistributedError) as error:
        start(cluster, timeout)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_plain_process_starts_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: pytest.fail("started"))
    start(find({}))


def test_a_timeout_below_a_second_is_refused():
    with pytest.raises(ValueError, match="timeout=0: must be at least 1 second"):
        start(None, 0)


@pytest.mark.parametrize(
    "host, reason", [("127.0.0.1", "connection refused"), ("no-such-host.invalid", "")], ids=["silent", "unknown name"]
)
def test_a_coordinator_that_does_not_answer_is_named(host, reason):
    address = f"{host}:{free_port()}"
    text = line(Cluster("flags", address, 2, 1))
    assert text.startswith(f"process 1 of 2, coordinator {address} (flags): no answer within 1 s: {reason}")


def test_a_process_waits_for_a_coordinator_that_starts_later(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    port = free_port()

    def listen():
        time.sleep(0.7)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.accept()[0].close()

    later = threading.Thread(target=listen, daemon=True)
    later.start()
    start(Cluster("flags", f"127.0.0.1:{port}", 2, 1), 20)
    later.join()
    [(values, options)] = calls
    assert values == (f"127.0.0.1:{port}", 2, 1)
    # survivors of a killed process end in less than 30 s; what was given is not detected again
    assert options["heartbeat_timeout_seconds"] == HEARTBEAT_SECONDS < 30
    assert options["cluster_detection_method"] == "deactivate" and "local_device_ids" not in options


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        text = line(Cluster("flags", f"127.0.0.1:{port}", 2, 0))
    assert text.endswith(f"cannot open port {port} here: address already in use")


def test_what_jax_refuses_becomes_one_line(monkeypatch):
    def refuse(*values, **options):
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    assert line(Cluster("jax's own detection")) == "process (jax's own detection): first line"


RUN = """
import os, sys
from maskdiff_jax import distributed
try:
    distributed.start(distributed.find(os.environ), int(sys.argv[1]))
except distributed.DistributedError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)
import jax
print(jax.process_index(), jax.process_count(), jax.local_device_count(), len(jax.devices()))
print(jax.config.read("jax_cuda_visible_devices"))
"""


def run(environ: dict[str, str], timeout: int) -> subprocess.Popen:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_", "TPU_", "XLA_"))}
    environ = known | {"JAX_PLATFORMS": "cpu"} | environ
    command = [sys.executable, "-c", RUN, str(timeout)]
    return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def meet(environs: list[dict[str, str]]) -> list[list[str]]:
    """What each of the processes printed; all must succeed."""
    processes = [run(environ, 60) for environ in environs]
    results = [process.communicate(timeout=120) for process in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), results
    return [out.splitlines() for out, _ in results]


def test_two_processes_find_each_other():
    common = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "3",
    }
    first, second = meet([common | {"JAX_PROCESS_ID": "0"}, common | {"JOB_COMPLETION_INDEX": "1"}])
    assert (first[0], second[0]) == ("0 2 3 6", "1 2 3 6")


@pytest.mark.parametrize("nodes, devices", [(2, ["all", "all"]), (1, ["0", "1"])], ids=["per node", "per GPU"])
def test_two_tasks_of_slurm_find_each_other_and_take_their_gpus(nodes, devices):
    common = SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": str(nodes)}
    common |= {"SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": str(free_port())}
    tasks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i if nodes == 1 else 0)} for i in range(2)]
    printed = meet([common | task for task in tasks])
    assert printed == [[f"{i} 2 1 2", devices[i]] for i in range(2)]


def test_a_process_whose_peers_do_not_come_says_so_in_one_line_and_ends():
    address = f"127.0.0.1:{free_port()}"
    process = run({"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, 1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    expected = f"error: process 0 of 2, coordinator {address} (environment): not all processes were there within 1 s\n"
    assert err == expected
