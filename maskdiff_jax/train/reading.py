"""Reading checkpoints: nothing is handed out that does not match its record (see `checkpoint`).

Every process of a distributed run makes the same calls in the same order, and all of them come to the same end.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskdiff_jax.train import seal, verify
from maskdiff_jax.train.digest import describe, nested
from maskdiff_jax.train.orbax_noise import one_error_only
from maskdiff_jax.train.verify import Average, CheckpointError, Damaged

T = TypeVar("T")

# (step, meta) -> None: may refuse a checkpoint by raising, before any array is read.
Accept = Callable[[int, dict[str, Any]], None]


class Restored(NamedTuple):
    """A verified state, the data pipeline's state, and the caller's ``meta``, as saved."""

    step: int
    state: Any
    data: dict[str, Any]
    meta: dict[str, Any]


class SavedParams(NamedTuple):
    """The parameters of a checkpoint as nested dicts, its step and the caller's ``meta``, as saved."""

    step: int
    params: dict[str, Any]
    meta: dict[str, Any]


class Load(NamedTuple):
    """What reads the folders of a checkpoint. Each raises whatever broken files provoke.

    record: folder -> JSON value. arrays: (folder, abstract state) -> state, `...` where the abstract one has it.
    some: (folder, paths) -> {path: NumPy array}, at least those paths of a state of unknown structure that are there.
    """

    record: Callable[[Path], Any]
    arrays: Callable[[Path, Any], Any]
    some: Callable[[Path, set[str]], dict[str, np.ndarray]]


class Reader:
    """The checkpoints in ``directory``, one step at a time. Moves and deletes nothing."""

    def __init__(self, directory: Path, load: Load):
        self.directory = directory
        self._loads = load

    def steps(self) -> list[int]:
        """The steps on disk in increasing order, sound or not."""
        # Not Orbax's list: it leaves out a checkpoint that lost its metadata file, which would then go unnoticed.
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit() and path.is_dir())

    def state(self, step: int, abstract_state: Any, accept: Accept | None) -> Restored:
        """The state of a step (see `Checkpoints.restore`). Raises `Damaged` or `CheckpointError`."""
        body = agreed(lambda: self._sealed_record(step))
        if accept is not None:
            accept(step, body["meta"])
        wanted = abstract_state(step) if callable(abstract_state) else abstract_state
        verify.require_fit(self.called(step), body["leaves"], wanted)
        target = jax.tree.map(_placed, wanted)
        state = agreed(lambda: self._load(step, "state", lambda at: self._loads.arrays(at, target)))
        read = describe(state)
        agreed(lambda: verify.require_equal(read, body["leaves"]))
        return Restored(step, state, body["data"], body["meta"])

    def params(self, step: int, average: Average) -> SavedParams:
        """Parameters of a step, NumPy arrays (see `Checkpoints.read_params`). Raises `Damaged` or `CheckpointError`."""
        body = agreed(lambda: self._sealed_record(step))
        paths = verify.params_in(self.called(step), body, average)
        arrays = agreed(lambda: self._some(step, set(paths.values())))
        read = describe(arrays)
        agreed(lambda: verify.require_equal(read, body["leaves"]))
        return SavedParams(step, nested({name: arrays[path] for name, path in paths.items()}), body["meta"])

    def shapes(self, step: int, average: Average) -> SavedParams:
        """As `params`, but shapes and dtypes, from the record alone."""
        body = agreed(lambda: self._record(step))
        leaves = body["leaves"]
        found = verify.params_in(self.called(step), body, average)
        shapes = {name: jax.ShapeDtypeStruct(leaves[at]["shape"], leaves[at]["dtype"]) for name, at in found.items()}
        return SavedParams(step, nested(shapes), body["meta"])

    def metrics(self) -> dict[int, float | None]:
        """{step: metric} of the checkpoints on disk whose record is sound."""
        found = {}
        for step in self.steps():
            with suppress(Damaged):  # `Checkpoints.restore` will speak of it
                found[step] = agreed(lambda step=step: self._record(step)).get("metric")
        return found

    def called(self, step: int) -> str:
        return f"checkpoint {step} in {self.directory}"

    def _sealed_record(self, step: int) -> dict[str, Any]:
        broken = seal.broken(self.directory / str(step))
        try:
            body = self._record(step)  # which knows another version, that may seal in another way
        except Damaged as error:
            raise Damaged(broken or str(error)) from error
        if broken:
            raise Damaged(broken)
        if body.get("sealed") and not seal.is_there(self.directory / str(step)):
            raise Damaged(f"file {seal.NAME} is missing")
        return body

    def _record(self, step: int) -> dict[str, Any]:
        return verify.body_of(self.called(step), self._load(step, "record", self._loads.record), step)

    def _some(self, step: int, paths: set[str]) -> dict[str, np.ndarray]:
        arrays = self._load(step, "state", lambda at: self._loads.some(at, paths))
        if missing := paths - arrays.keys():
            raise Damaged(f"leaf {min(missing)} is missing")
        return arrays

    def _load(self, step: int, item: str, load: Callable[[Path], Any]) -> Any:
        # The manager's own `restore` ends in a barrier, at which the others would wait for a process that failed.
        try:
            with one_error_only():
                return load(self.directory / str(step) / item)
        except (MemoryError, jax.errors.JaxRuntimeError):  # of this machine, not of the checkpoint
            raise
        except Exception as error:  # whatever broken files provoke
            raise Damaged(f"cannot be read: {seal.reason(error)}") from error


def abstract(state: Any) -> Any:
    """The shapes, dtypes and shardings of a state: what `Checkpoints.restore` restores into."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def agreed(attempt: Callable[[], T]) -> T:
    """The attempt's result; an error where any process met one, as all of them must do the same next."""
    result, error = None, None
    try:
        result = attempt()
    except (Damaged, CheckpointError) as met:
        error = met
    if jax.process_count() > 1:
        rank = np.int32(0 if error is None else 1 if isinstance(error, Damaged) else 2)
        worst = int(multihost_utils.process_allgather(rank).max())
        if worst > rank:
            error = (Damaged, CheckpointError)[worst - 1]("another process cannot read it")
    if error:
        raise error
    return cast(T, result)


def newest(
    directory: Path,
    steps: Sequence[int],
    read: Callable[[int], T],
    warn: Callable[[str], Any],
    set_aside: Callable[[int], str],
) -> T | None:
    """What ``read`` makes of the latest of ``steps`` at which it meets no damage; None where there never were any.

    Later ones are then reported, one line each, with what ``set_aside`` says about having moved them. Raises
    `CheckpointError` where all are damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps):
        try:
            found = read(step)
        except Damaged as error:
            damaged[step] = str(error)
            continue
        for bad, why in damaged.items():
            warn(f"checkpoint {bad} is damaged: {why}; using {step}{set_aside(bad)}")
        return found
    if damaged:
        reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
        raise CheckpointError(f"no checkpoint in {directory} is sound ({reasons})")
    if directory.is_dir() and (aside := sorted(path.name for path in directory.glob("damaged-*"))):
        raise CheckpointError(f"no sound checkpoint is left in {directory}, only {', '.join(aside)}")
    return None


def _placed(leaf: Any) -> Any:
    """Without a sharding Orbax would want the devices that the checkpoint was saved from."""
    if leaf is ... or getattr(leaf, "sharding", None) is not None:
        return leaf
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
