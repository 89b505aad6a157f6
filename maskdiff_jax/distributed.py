"""How the processes of one run find each other: JAX's multi-controller runtime, started from flags or environment.

A run in several processes (TPU hosts, GPU nodes, pods of a Kubernetes job) is the same command in each of them. `find`
reads who this process is, `start` connects it; after that ``jax.devices()`` are the devices of all processes.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

AUTO = "auto"  # --coordinator=auto: as jax itself detects it

# A process that has been silent for so long is dead, and the others end: well before a scheduler loses its patience.
HEARTBEAT_SECONDS = 15
SHUTDOWN_SECONDS = 15

_MARGIN = 60  # the runtime aborts the whole process at its own timeout; ours comes first and says why
_PAUSE = 0.5

_FLAGS = ("--coordinator", "--num_processes", "--process_id")


class Cluster(NamedTuple):
    """Who this process is among those of its run; None is what jax itself detects.

    ``source`` says how it was found. ``whole_host``: the process takes all devices of its host, where jax would give it
    the one of its local number.
    """

    source: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    whole_host: bool = False


class DistributedError(RuntimeError):
    """The processes did not come together. The process should end: the runtime may be half started."""


def find(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Cluster | None:
    """The cluster that this process belongs to, or None for a plain single process. Pure.

    In this order: the three explicit values, ``coordinator`` as "host:port"; JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID (or JOB_COMPLETION_INDEX, which Kubernetes gives to an indexed job); a Slurm
    step of several tasks; a Cloud TPU slice of several hosts, as GKE describes it. ``coordinator="auto"`` instead of
    the three values means that there is a cluster: where the environment names none, jax looks for one, which on Cloud
    TPU VMs asks the metadata server.

    Raises ValueError with one line for values that are missing, malformed, out of range or contradictory.
    """
    given = (coordinator, num_processes, process_id)
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise ValueError(f"--coordinator={AUTO} finds --num_processes and --process_id itself: leave them out")
    elif any(value is not None for value in given):
        return _explicit("flags", _FLAGS, given)
    environ = {name: value for name, value in environ.items() if value}  # an empty variable is none
    for source in (_of_jax_variables, _of_slurm, _of_cloud_tpu):
        if (found := source(environ)) is not None:
            return found
    return Cluster("jax's own detection") if coordinator == AUTO else None


def start(cluster: Cluster | None, timeout: int = 300) -> None:
    """Connect this process to the others of ``cluster``; nothing to do for None. Before anything touches a device.

    Returns when all processes are there. Raises DistributedError with one line when they are not within ``timeout``
    seconds, when the coordinator's address is unusable, and for whatever jax refuses; ValueError for a timeout below 1.
    """
    if timeout < 1:
        raise ValueError(f"timeout={timeout}: must be at least 1 second")
    if cluster is None:
        return
    began = time.monotonic()
    if cluster.coordinator is not None:
        # With an address that it cannot use, the runtime does not raise but kills the process.
        if cluster.process_id == 0:
            _require_free_port(cluster, cluster.coordinator)
        else:
            _wait_for_coordinator(cluster, cluster.coordinator, timeout)
    failure: list[Exception] = []
    # In a thread, because the call cannot be interrupted, neither by Ctrl-C nor by a timeout that says what happened.
    thread = threading.Thread(target=_initialize, args=(cluster, timeout + _MARGIN, failure), daemon=True)
    thread.start()
    thread.join(max(1.0, timeout - (time.monotonic() - began)))
    if thread.is_alive():
        raise DistributedError(f"{_name(cluster)}: not all processes were there within {timeout} s")
    if failure:
        reason = str(failure[0]).strip() or type(failure[0]).__name__
        raise DistributedError(f"{_name(cluster)}: {reason.splitlines()[0]}") from failure[0]


def _initialize(cluster: Cluster, timeout: int, failure: list[Exception]) -> None:
    # What is complete needs no detection, which could find another cluster or take the GPUs of this process away.
    complete = cluster.coordinator is not None
    local: dict[str, Any] = {"local_device_ids": []} if cluster.whole_host else {}  # no restriction
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            cluster_detection_method="deactivate" if complete else None,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            **local,
        )
    except Exception as error:  # of any kind: a metadata server may fail in its own ways
        failure.append(error)


def _of_jax_variables(environ: Mapping[str, str]) -> Cluster | None:
    names = ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"]
    if not any(name in environ for name in names):
        return None
    if names[2] not in environ and "JOB_COMPLETION_INDEX" in environ:
        names[2] = "JOB_COMPLETION_INDEX"
    count, number = (_integer(environ, name) if name in environ else None for name in names[1:])
    return _explicit("environment", tuple(names), (environ.get(names[0]), count, number))


def _of_slurm(environ: Mapping[str, str]) -> Cluster | None:
    """A step that srun started. A batch script or an interactive shell of a job is a plain process."""
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_PROCID")
    if not all(name in environ for name in (*step, "SLURM_LOCALID")):
        return None
    tasks, task = _integer(environ, "SLURM_STEP_NUM_TASKS"), _integer(environ, "SLURM_PROCID")
    if tasks == 1:
        return None
    if environ["SLURM_NTASKS"] != environ["SLURM_STEP_NUM_TASKS"]:
        raise ValueError(f"SLURM_NTASKS={environ['SLURM_NTASKS']} contradicts SLURM_STEP_NUM_TASKS={tasks}")
    _require_range(("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), tasks, task)
    # With a task for each node, jax would restrict it to the first GPU; with more, each takes the GPU of its number.
    return Cluster("Slurm", None, tasks, task, whole_host=environ.get("SLURM_STEP_NUM_NODES") == str(tasks))


def _of_cloud_tpu(environ: Mapping[str, str]) -> Cluster | None:
    """A slice or several as GKE describes them. A single host is a plain process."""
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is None:
        return None
    per_slice = len(hosts.split(","))
    slices = _integer(environ, "MEGASCALE_NUM_SLICES") if "MEGASCALE_NUM_SLICES" in environ else 1
    if per_slice * slices == 1:
        return None
    names = ["TPU_WORKER_ID"] + ["MEGASCALE_SLICE_ID"] * (slices > 1)
    if missing := [name for name in names if name not in environ]:
        raise ValueError(f"{missing[0]} is not set, on a TPU slice of {per_slice} hosts")
    worker, *of_slice = (_integer(environ, name) for name in names)
    process = sum(of_slice) * per_slice + worker
    _require_range(("the number of TPU hosts", "the number of this TPU host"), per_slice * slices, process)
    return Cluster("Cloud TPU", None, per_slice * slices, process)


def _explicit(source: str, names: tuple[str, ...], values: tuple[str | None, int | None, int | None]) -> Cluster:
    """A cluster of three values, all of which must be there. Raises ValueError."""
    if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
        there = next(name for name in names if name not in missing)
        raise ValueError(f"{there} is set without {' and '.join(missing)}: set all of {', '.join(names)}, or none")
    address, count, number = values
    assert address is not None and count is not None and number is not None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{names[0]}={address!r}: must be host:port, with a port from 1 to 65535")
    _require_range(names[1:], count, number)
    return Cluster(source, address, count, number)


def _require_range(names: tuple[str, ...], count: int, number: int) -> None:
    if count < 1:
        raise ValueError(f"{names[0]}={count}: must be at least 1")
    if not 0 <= number < count:
        raise ValueError(f"{names[1]}={number}: must be from 0 to {count - 1}, because {names[0]}={count}")


def _integer(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ValueError(f"{name}={environ[name]!r}: must be a whole number") from None


def _require_free_port(cluster: Cluster, address: str) -> None:
    """Raise DistributedError where something listens on the port that the coordinator is to open."""
    port, dual = int(address.rpartition(":")[2]), socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if dual else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise DistributedError(f"{_name(cluster)}: cannot open port {port} here: {_reason(error)}") from error


def _wait_for_coordinator(cluster: Cluster, address: str, timeout: int) -> None:
    """Wait until something listens at the address: process 0 may start later. Raises DistributedError."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(_PAUSE, min(left, 5))).close()
            return
        except OSError as error:
            if left <= _PAUSE:
                raise DistributedError(
                    f"{_name(cluster)}: no answer within {timeout} s: {_reason(error)}; is process 0 running?"
                ) from error
        time.sleep(_PAUSE)


def _reason(error: OSError) -> str:
    number = error.errno or 0  # negative for a name that is not found
    return (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()


def _name(cluster: Cluster) -> str:
    """ "process 1 of 2, coordinator 10.0.0.1:1234 (flags)"."""
    process = "process" if cluster.process_id is None else f"process {cluster.process_id} of {cluster.num_processes}"
    coordinator = "" if cluster.coordinator is None else f", coordinator {cluster.coordinator}"
    return f"{process}{coordinator} ({cluster.source})"
