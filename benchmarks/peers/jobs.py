"""What either side prepares and runs in its own process, and the process that serves it."""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.peers.timing import Taken

# The environment of each side's process, by device; the peer has our parameters from JAX on the CPU.
ENVIRONMENT = {
    "ours": {"cpu": {"JAX_PLATFORMS": "cpu"}, "cuda": {"JAX_PLATFORMS": "cuda,cpu"}},
    "peer": {"cpu": {"JAX_PLATFORMS": "cpu"}, "cuda": {"JAX_PLATFORMS": "cpu"}},
}
MODULES = {"ours": "benchmarks.peers.our_ways", "peer": "benchmarks.peers.peer_ways"}
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU's is for both sides
Way = Callable[[], object]


class Ready(NamedTuple):
    """The ways that run, the seconds of their first calls, compilation included, and why the others do not."""

    ways: tuple[str, ...]
    first_seconds: dict[str, float]
    failures: dict[str, str]


class Side:
    """``with Side("ours" | "peer", device) as side``: a process of its own, where that side alone is loaded.

    So neither finds the memory or the threads of the other in its way. ``side.prepare(job, steps)`` builds and calls
    each way of a job, ``side.take(way)`` times one call of it, ``side.about()`` says what it runs with. Each raises
    RuntimeError with the text of what was raised there.
    """

    def __init__(self, name: str, device: str):
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(other, name, device), daemon=True)

    def __enter__(self) -> "Side":
        self.process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        self.process.join()

    def prepare(self, job: str, steps: int) -> Ready:
        return self._ask("prepare", job, steps)

    def take(self, way: str) -> Taken:
        return self._ask("take", way)

    def about(self) -> dict[str, Any]:
        return self._ask("about")

    def _ask(self, *message: Any) -> Any:
        self.connection.send(message)
        while not self.connection.poll(1):
            if not self.process.is_alive():
                raise RuntimeError(f"the process of {message} ended with status {self.process.exitcode}")
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(connection: Connection, name: str, device: str) -> None:
    """Answer the messages of a `Side` until the process is ended."""
    os.environ |= ENVIRONMENT[name][device] | SHARED_MEMORY
    module, ways = import_module(MODULES[name]), {}

    def prepare(job: str, steps: int) -> Ready:
        ways.clear()
        gc.collect()
        made, optional = module.ways(job, device, steps)
        ready = warm_up(made, optional)
        ways.update({way: made[way] for way in ready.ways})
        return ready

    actions = {"prepare": prepare, "take": lambda way: take(ways[way]), "about": lambda: module.about(device)}
    while True:
        action, *arguments = connection.recv()
        try:
            answer = actions[action](*arguments)
        except Exception as error:
            answer = RuntimeError(f"{name}, {action} {arguments}: {type(error).__name__}: {error}")
        connection.send(answer)


def take(way: Way) -> Taken:
    """One call of a way: its seconds, and those of the processor in all threads."""
    began, busy = time.perf_counter(), time.process_time()
    way()
    return Taken(time.perf_counter() - began, time.process_time() - busy)


def warm_up(ways: Mapping[str, Way], optional: frozenset[str]) -> Ready:
    """Call each way twice. One that is ``optional`` and fails is left out; any other raises."""
    ready, first, failures = [], {}, {}
    for name, way in ways.items():
        try:
            first[name] = take(way).wall
            way()
        except Exception as error:  # whatever a compiler raises
            if name not in optional:
                raise
            failures[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            ready.append(name)
    return Ready(tuple(ready), first, failures)
