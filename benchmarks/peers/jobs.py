"""What either side prepares and runs in its own process, and the process that serves it."""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

from benchmarks.peers.timing import Taken

# The environment of each side's process, by device; the peer has our parameters from JAX on the CPU.
ENVIRONMENT = {
    "ours": {"cpu": {"JAX_PLATFORMS": "cpu"}, "cuda": {"JAX_PLATFORMS": "cuda,cpu"}},
    "peer": {"cpu": {"JAX_PLATFORMS": "cpu"}, "cuda": {"JAX_PLATFORMS": "cpu"}},
}
MODULES = {"ours": "benchmarks.peers.our_ways", "peer": "benchmarks.peers.peer_ways"}
SHARE = 0.46  # of a GPU's memory for each side: what neither side's allocator knows of takes some, too
PATIENCE = 5  # seconds that a process has to end by itself
Way = Callable[[], object]


class Ready(NamedTuple):
    """The ways that run, the seconds of their first calls, compilation included, and why the others do not."""

    ways: tuple[str, ...]
    first_seconds: dict[str, float]
    failures: dict[str, str]


class Desk:
    """One side's ways, in this process: ``prepare`` builds them, ``take`` times one of them, ``call`` asks for more.

    ``module`` holds ``KINDS``, (entry, device, calls) -> ways by name, for each kind of job; ``OPTIONAL``, the names of
    ways that may fail; ``begin(device, share)``, which lets go of what the ways before have left and keeps to the share
    of a GPU's memory; and what is called by name.
    """

    def __init__(self, module: str, device: str, share: float = SHARE):
        self.module, self.device, self.share = import_module(module), device, share
        self.ways: dict[str, Way] = {}

    def prepare(self, kind: str, entry: Any, calls: int, seconds: float | None = None) -> Ready:
        """Build the ways of a job and call each twice; the ways of the job before are gone. It takes what it takes."""
        self.ways.clear()
        gc.collect()
        self.module.begin(self.device, self.share)
        made = self.module.KINDS[kind](entry, self.device, calls)
        ready = warm_up(made, frozenset(made) & self.module.OPTIONAL)
        self.ways.update({way: made[way] for way in ready.ways})
        return ready

    def take(self, way: str) -> Taken:
        return take(self.ways[way])

    def call(self, function: str, *arguments: Any) -> Any:
        """``function(device, *arguments)`` of the module."""
        return getattr(self.module, function)(self.device, *arguments)


class Side:
    """``with Side("ours" | "peer", device) as side``: a `Desk` in its own process, where that side alone is loaded.

    So neither finds the memory or the threads of the other in its way. Its methods raise RuntimeError with the text of
    what was raised there. ``share``: of a GPU's memory, what is taken at most; ``module``: another one than the side's;
    ``environment``: of the process, beside what the device asks for.
    """

    def __init__(
        self,
        name: str,
        device: str,
        share: float = SHARE,
        module: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(share)}
        self.environment = ENVIRONMENT[name][device] | memory | dict(environment)
        arguments = (other, name, module or MODULES[name], device, share)
        self.process = context.Process(target=serve, args=arguments, daemon=True)

    def __enter__(self) -> "Side":
        before = dict(os.environ)
        os.environ |= self.environment  # inherited: a process imports its main module, and jax with it, before `serve`
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ |= before
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.connection.close()  # which ends `serve`
        self.process.join(PATIENCE)
        self.process.terminate()
        self.process.join()

    def prepare(self, kind: str, entry: Any, calls: int, seconds: float | None = None) -> Ready:
        """As a desk does. Raises TimeoutError where it takes more than ``seconds``; the process is then ended."""
        return self._ask("prepare", kind, entry, calls, seconds=seconds)

    def take(self, way: str) -> Taken:
        return self._ask("take", way)

    def call(self, function: str, *arguments: Any) -> Any:
        return self._ask("call", function, *arguments)

    def _ask(self, *message: Any, seconds: float | None = None) -> Any:
        self.connection.send(message)
        until = None if seconds is None else time.monotonic() + seconds
        while not self.connection.poll(1):
            if not self.process.is_alive():
                raise RuntimeError(f"the process of {message} ended with status {self.process.exitcode}")
            if until is not None and time.monotonic() > until:
                self.process.terminate()
                raise TimeoutError(f"{' '.join(map(str, message[:2]))} took more than {seconds:.0f} s")
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(connection: Connection, name: str, module: str, device: str, share: float) -> None:
    """Answer the messages of a `Side` until its end of the connection is closed."""
    desk = Desk(module, device, share)
    while True:
        try:
            action, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = getattr(desk, action)(*arguments)
        except Exception as error:
            told = " ".join(str(argument) for argument in arguments)
            answer = RuntimeError(f"{name}, {action} {told}: {type(error).__name__}: {error}")
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
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        else:
            ready.append(name)
    return Ready(tuple(ready), first, failures)
