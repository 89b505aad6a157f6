"""Checkpoints that are verified before they are believed.

Orbax writes asynchronously and commits atomically, but a flipped bit restores silently, another dtype casts silently,
and `latest_step` still names a broken step. So each checkpoint carries a *record*, committed with it: the dtype, shape
and SHA-256 of every array, the state of the data pipeline, what the caller wants to keep, and a digest of all that;
and a seal, the SHA-256 of each of its files, which notices a flipped bit also where no value depends on it.
`restore` takes the newest checkpoint that matches its record, and says which ones do not.

    directory/1200/            one checkpoint: state/ (arrays), record/ (JSON)
    directory/damaged-1400/    one that did not verify, moved aside and never deleted
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from absl import logging

from maskdiff_jax.train import failing, keeping, reading, seal, store, verify
from maskdiff_jax.train.orbax_noise import one_error_only, quiet
from maskdiff_jax.train.reading import Accept, Restored, SavedParams
from maskdiff_jax.train.verify import Average, CheckpointError, Damaged

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one run.

    Kept on disk: the newest ``keep_latest``, every one whose step is a multiple of ``keep_every``, those of
    ``keep_steps``, and the ``keep_best`` of the least metric (of equal ones the latest). During a save there is one
    more. With ``read_only`` nothing is created, cleaned up or moved, as befits sampling and evaluation beside a running
    trainer. ``warn`` receives one line for each damaged checkpoint.

    Every process of a distributed run makes the same calls in the same order.
    """

    def __init__(
        self,
        directory: str | Path,
        keep_latest: int = 2,
        keep_every: int | None = None,
        *,
        keep_steps: Sequence[int] = (),
        keep_best: int = 0,
        read_only: bool = False,
        warn: Callable[[str], Any] = logging.warning,
    ):
        keeping.check(keep_latest, keep_every, keep_best)
        self.directory = Path(directory).absolute()
        self._reader = reading.Reader(self.directory, store.LOAD)
        self._best = keeping.Best(keep_best)
        self._keep = store.kept(keep_latest, keep_every, keep_steps, self._best)
        self._read_only = read_only
        self._warn = warn
        self._writing: int | None = None
        self._noise = ExitStack()  # that of a save under way, until someone waits for it
        self._others: set[threading.Thread] = set()  # which there were before that save
        logging.get_absl_logger().addFilter(quiet)
        if keep_best and not read_only:
            self._best.metrics = self._reader.metrics()
        self._manager = self._open()

    def _open(self) -> store.Manager:
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"cannot open {self.directory}: not a directory")
        try:
            return store.open_manager(self.directory, self._keep, self._read_only, self._seal)
        except OSError as error:
            raise CheckpointError(f"cannot open {self.directory}: {seal.reason(error)}") from error

    def _seal(self) -> None:
        """Called by Orbax once the files of a checkpoint are written, just before it is committed by renaming."""
        if jax.process_index() == 0:
            for folder in self.directory.glob(f"{self._writing}.orbax-checkpoint-tmp*"):
                seal.seal(folder, ("state", "record"))

    def steps(self) -> list[int]:
        """The steps on disk in increasing order, damaged ones included until `restore` meets them."""
        return self._reader.steps()

    def latest_step(self) -> int | None:
        """The newest step on disk or being written, verified or not."""
        return max([*self.steps(), *self._manager.all_steps()], default=None)

    def best_step(self) -> int | None:
        """The step with the least metric of those whose record is sound, the latest of equal ones; None without any."""
        self.wait()
        return next(iter(keeping.ranking(self._reader.metrics())), None)

    def save(
        self,
        step: int,
        state: Any,
        data: dict[str, Any],
        meta: dict[str, Any],
        wait: bool = False,
        *,
        metric: float | None = None,
    ) -> bool:
        """Write a checkpoint; False where this step is there already.

        ``state`` is a pytree of `jax.Array`, ``data`` and ``meta`` are JSON. ``metric`` is what ``keep_best`` and
        `best_step` rank by, less being better; None, NaN and infinities are not ranked. Once this returns, the buffers
        of ``state`` may be donated; unless ``wait``, the files are still being written, and an error shows in the next
        call. Raises `CheckpointError`, in which case earlier checkpoints are intact and nothing is left of this one.
        """
        if self._read_only:
            raise CheckpointError(f"cannot save step {step}: {self.directory} is open for reading only")
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            if step in self.steps():
                return False
            raise CheckpointError(f"cannot save step {step}: {self.directory} already holds the later step {latest}")
        record = verify.make_record(step, state, data, meta, metric)
        self._writing = step
        self._best.metrics[step] = keeping.ranked(metric)
        self._noise.enter_context(one_error_only())
        self._others = set(threading.enumerate())
        try:
            store.save(self._manager, step, state, record)
        except Exception as error:
            self._give_up(error)
        if wait:
            self.wait()
        return True

    def restore(self, abstract_state: Any, accept: Accept | None = None) -> Restored | None:
        """The newest checkpoint that verifies; None where there has never been one.

        ``abstract_state`` (see `reading.abstract`) gives the tree, shapes, dtypes and shardings, or is a function
        ``step -> tree`` where they depend on the step; a leaf given as ``...`` is neither read nor verified. ``accept``
        may refuse a sound checkpoint by raising. Newer checkpoints that fail are reported and, once an older one has
        verified, moved aside. Raises `CheckpointError` where none verifies, and where a sound one was saved from
        another model or by another version.
        """
        return self._newest(lambda step: self._reader.state(step, abstract_state, accept), self._set_aside)

    def restore_step(self, step: int, abstract_state: Any, accept: Accept | None = None) -> Restored:
        """The checkpoint of one step, verified as by `restore`; moves nothing.

        Raises `CheckpointError` where it is absent, damaged, of another model or version.
        """
        self.wait()
        if step not in self.steps():
            raise self._absent(f"no checkpoint {step} in {self.directory}")
        try:
            return self._reader.state(step, abstract_state, accept)
        except Damaged as error:
            raise CheckpointError(f"{self._reader.called(step)} is damaged: {error}") from error

    def restore_best(self, abstract_state: Any, accept: Accept | None = None) -> Restored:
        """As `restore_step`, of the `best_step`. Raises `CheckpointError` where no checkpoint has a metric, too."""
        if (step := self.best_step()) is None:
            raise self._absent(f"no checkpoint in {self.directory} has a metric to be the best by")
        return self.restore_step(step, abstract_state, accept)

    def restore_named(self, name: str, abstract_state: Any, accept: Accept | None = None) -> Restored | None:
        """What a user names: one of `NAMED`, or the number of a step."""
        if name in NAMED:
            return NAMED[name](self, abstract_state, accept)
        if not name.isdecimal():
            raise self._absent(f"no checkpoint {name!r}: name a step, or {' or '.join(NAMED)}")
        return self.restore_step(int(name), abstract_state, accept)

    def read_params(self, average: Average = None) -> SavedParams:
        """The parameters of the newest checkpoint that verifies, as NumPy arrays, whatever model they are of.

        ``average``: None for the raw ones, a decay for that average of them, "first" for the first decay of
        ``meta["config"]["ema"]``. The record tells the tree; nothing else is read. Newer checkpoints that fail are
        reported and stay where they are. Raises `CheckpointError` where there is none, where none verifies, and where
        there is no such average. In a distributed run every process holds a copy of its own.
        """
        return self._newest_of_a_run(lambda step: self._reader.params(step, average))

    def shapes(self, average: Average = None) -> SavedParams:
        """As `read_params`, with shapes and dtypes in the place of the arrays: from the newest sound record alone.

        Arrays are neither read nor verified, so `read_params` may have to fall back to an older checkpoint than this.
        """
        return self._newest_of_a_run(lambda step: self._reader.shapes(step, average))

    def _newest(self, read: Callable[[int], T], set_aside: Callable[[int], str] = lambda _: "") -> T | None:
        self.wait()
        return reading.newest(self.directory, self.steps(), read, self._warn, set_aside)

    def _set_aside(self, step: int) -> str:
        if self._read_only:
            return ""
        target = seal.set_aside(self.directory, step)
        self._manager.close()
        self._manager = self._open()  # forgets the step that was moved
        return f" (moved to {target.name})"

    def _newest_of_a_run(self, read: Callable[[int], T]) -> T:
        if (found := self._newest(read)) is None:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        return found

    def _absent(self, why: str) -> CheckpointError:
        return CheckpointError(f"{why}; there are: {', '.join(map(str, self.steps())) or 'none'}")

    def wait(self) -> None:
        """Block until the last save is on disk. Raises `CheckpointError` where it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._give_up(error)
        self._noise.close()

    def _give_up(self, error: Exception) -> NoReturn:
        """Raise the error in words; as it is where another process is lost.

        What the failed save has left goes, for a full disk may be what failed it.
        """
        if failing.peer_lost(error):
            raise error
        alone = jax.process_count() == 1  # closing and opening are barriers, at which not all processes may arrive
        why = seal.reason(error)
        with self._noise.pop_all():
            if alone:
                with suppress(Exception):
                    self._manager.close()
            failing.let_finish(error, self._others)
            if jax.process_index() == 0:
                failing.remove_unfinished(self.directory, f"{self._writing}.orbax-checkpoint-tmp*")
            if alone:
                with suppress(CheckpointError):
                    self._manager = self._open()  # which again knows the old steps that were to go
            raise CheckpointError(f"cannot write checkpoint {self._writing} in {self.directory}: {why}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        """Close; but where another process is gone, at once: the save under way would wait for it in vain."""
        if not failing.peer_lost(error):
            self.close()

    def close(self) -> None:
        """Wait, then release the threads. Raises `CheckpointError` where the last save failed."""
        try:
            self.wait()
        finally:
            with suppress(OSError):  # that of the last save once more
                self._manager.close()


# What a checkpoint can be called, apart from its step.
NAMED: dict[str, Callable[[Checkpoints, Any, Accept | None], Restored | None]] = {
    "newest": Checkpoints.restore,
    "best": Checkpoints.restore_best,
}
