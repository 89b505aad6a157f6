"""Where the cases are measured: the sides, the time that is left, the card. Needs neither JAX nor PyTorch."""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.gpu.search import Budget, Search, Trial, best_batch
from benchmarks.peers import timing
from benchmarks.peers.jobs import SHARE, Desk, Ready, Side
from benchmarks.peers.setups import Setup

OURS = "benchmarks.gpu.our_ways"
ALONE = 0.9  # of the memory, where one side has the card for itself
PEAKS = {"H100": 989e12, "H200": 989e12}  # bfloat16 FLOP/s, dense, of cards that have this in their name
TRIAL_CALLS, TRIALS = 3, 2  # of a batch size
SECONDS = 2.0  # of a timing, at least
READY, MEASURING = 0.85, 0.95  # of the time, when all ways must be ready, and the measurement done
SIDE = 8192  # of the matrices whose product is the ceiling
ROUNDS = 12
PAUSE = 0.1  # seconds before a timing
TINY: dict[str, Any] = {"batch": 2, "classes": 4, "steps": 2}
TINY_SIZE = {"patch": 2, "width": 16, "depth": 1, "heads": 2}
TINY_SIDE = 8  # of images
TINY_IMAGES = 16


class Measured(NamedTuple):
    """What a way took in each round for one image, and the images of one call."""

    images: int
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Images a second."""
        return 1 / statistics.median(self.seconds)

    def figures(self) -> dict[str, Any]:
        return {"batch": self.images, "images_per_second": self.rate, "seconds_per_image": self.seconds}


class Lab:
    """One case's surroundings. ``device``: cuda or cpu; ``minutes``: all that the case may take.

    ``tiny``: sizes that a CPU computes in seconds, one timing of each way and no search, to see that a case runs.
    ``here``: both sides in this process. ``options``: further keywords of our network's constructor. ``first``: the
    batch with which a search begins. ``torch``: whether there is a peer; by default where PyTorch is installed.
    """

    def __init__(
        self,
        device: str,
        minutes: float = 8.0,
        *,
        tiny: bool = False,
        here: bool = False,
        options: Mapping[str, Any] | None = None,
        first: int | None = None,
        torch: bool | None = None,
    ):
        self.device, self.tiny, self.here, self.options, self.first = device, tiny, here, dict(options or {}), first
        self.budget = Budget(minutes)
        self.torch = find_spec("torch") is not None if torch is None else torch
        self.notes: list[str] = [] if self.torch else ["PyTorch is not here: ours alone."]
        self.made_with: dict[str, Any] = {}
        self.rounds = 0
        self._programs = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # compiled once in a case

    def close(self) -> None:
        self._programs.cleanup()

    def say(self, text: str) -> None:
        print(f"{self.budget.spent:6.1f} s  {text}", flush=True)

    @property
    def side_of_products(self) -> int:
        return 64 if self.tiny else SIDE

    @property
    def small(self) -> int | None:
        """The images of a tiny data set."""
        return TINY_IMAGES if self.tiny else None

    def of(self, setup: Setup) -> Setup:
        """The setup as it is measured here."""
        if self.tiny:
            shape = (TINY_SIDE, TINY_SIDE, setup.shape[2])
            setup = setup._replace(size=TINY_SIZE, shape=shape, **TINY)
        return setup._replace(options=self.options, batch=self.first or setup.batch)

    def side(self, name: str, alone: bool = False) -> AbstractContextManager[Any]:
        module = OURS if name == "ours" else None
        if self.here:
            return nullcontext(Desk(module or "benchmarks.peers.peer_ways", self.device))
        keep = {
            "JAX_COMPILATION_CACHE_DIR": self._programs.name,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        }
        return Side(name, self.device, ALONE if alone else SHARE, module, keep if name == "ours" else {})

    def search(self, side: Any, kind: str, setup: Setup, way: str, until: float) -> Search:
        """The batch of most images a second for one way, found within that share of the time."""
        if self.tiny:
            return self.trial(side, kind, setup, way)
        found = best_batch(setup.batch, self._rate(side, kind, setup, way), partial(self.budget.until, until))
        if found.out_of_time:
            self.notes.append(f"The search for the best batch of {way!r} ended with its time, at {found.batch}.")
        return found

    def trial(self, side: Any, kind: str, setup: Setup, way: str) -> Search:
        """As `search` with one batch size, the setup's own."""
        if self.tiny:
            return Search(setup.batch, float(setup.batch), (), out_of_time=False)
        rate = self._rate(side, kind, setup, way)(setup.batch)
        return Search(setup.batch, rate, (Trial(setup.batch, rate),), out_of_time=False)

    def _rate(self, side: Any, kind: str, setup: Setup, way: str) -> Callable[[int], float]:
        def rate(batch: int) -> float:
            self.say(f"{way}, {kind}, batch {batch}")
            self._prepare(side, kind, setup._replace(batch=batch), TRIAL_CALLS)
            return batch * TRIAL_CALLS / min(side.take(way).wall for _ in range(TRIALS))

        return rate

    def ready(self, side: Any, kind: str, entry: Any, found: Search) -> "dict[str, Way]":
        """The ways of a kind at the batch that was found, with as many calls in a timing as it takes."""
        calls = 1 if self.tiny else max(1, round(SECONDS * found.images_per_second / found.batch))
        if isinstance(entry, Setup):
            entry = entry._replace(batch=found.batch)
        self.say(f"{kind}, batch {found.batch}, {calls} calls in a timing")
        ready = self._prepare(side, kind, entry, calls)
        self.notes += [f"{way} did not run: {why}" for way, why in ready.failures.items()]
        return {name: Way(partial(side.take, name), found.batch, calls) for name in ready.ways}

    def compiled(self, peer: Any, kind: str, setup: Setup, found: Search) -> "dict[str, Way]":
        """The peer under torch.compile at the batch that was found; eager where that does not run."""
        ways = self.ready(peer, f"{kind} compiled", setup, found)
        return ways or self.ready(peer, f"{kind} eager", setup, found)

    def alternate(self, ways: "Mapping[str, Way]") -> dict[str, Measured]:
        """All ways in turn, until there were enough rounds, or the next would be too late."""
        rounds = 1 if self.tiny else ROUNDS
        began = self.budget.spent
        done = 0

        def more() -> bool:
            nonlocal done
            done += 1
            return self.budget.until(MEASURING) > (self.budget.spent - began) / done

        taken = timing.alternate({name: way.take for name, way in ways.items()}, rounds, PAUSE, more)
        self.rounds = min(map(len, taken.values()))
        if self.rounds < rounds:
            self.notes.append(f"Time ended the measurement after {self.rounds} of {rounds} rounds.")
        return {
            name: Measured(way.images, [one.wall / (way.images * way.calls) for one in taken[name]])
            for name, way in ways.items()
        }

    def about(self, ours: Any) -> None:
        """Note what our side runs with: before anything else."""
        self.made_with = ours.call("about")

    def about_peer(self, peer: Any) -> None:
        self.made_with["versions"] |= {"torch": peer.call("about")["torch"]}

    def _prepare(self, side: Any, kind: str, entry: Any, calls: int) -> Ready:
        """Raises TimeoutError where it would leave no time to measure."""
        return side.prepare(kind, entry, calls, max(1.0, self.budget.until(READY)))

    @property
    def peak(self) -> float | None:
        """FLOP/s by the card's data sheet, where it is known."""
        kind = self.made_with["device"]
        return next((peak for name, peak in PEAKS.items() if name in kind), None)

    def share_of_peak(self, rate: float) -> float | None:
        return None if self.peak is None else rate / self.peak


class Way(NamedTuple):
    """``take()`` times ``calls`` calls of ``images`` images each."""

    take: Callable[[], timing.Taken]
    images: int
    calls: int
