"""Checkpoints that are verified before they are believed (the only importer of Orbax).

Orbax writes asynchronously and commits atomically, but a flipped bit restores silently, another dtype casts silently,
and `latest_step` still names a broken step. So each checkpoint carries a *record*, committed with it: the dtype, shape
and SHA-256 of every array, the state of the data pipeline, what the caller wants to keep, and a digest of all that;
and a seal, the SHA-256 of each of its files, which notices a flipped bit also where no value depends on it.
`restore` takes the newest checkpoint that matches its record, and says which ones do not.

    directory/1200/            one checkpoint: state/ (arrays), record/ (JSON)
    directory/damaged-1400/    one that did not verify, moved aside and never deleted
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from maskdiff_jax.train import seal
from maskdiff_jax.train.digest import describe, flatten, form, json_digest
from maskdiff_jax.train.orbax_noise import one_error_only, quiet

T = TypeVar("T")


class CheckpointError(OSError):
    """A checkpoint that cannot be written, read or used, in one line."""


class _Damaged(Exception):
    """A checkpoint does not match its record."""


class Restored(NamedTuple):
    """What `Checkpoints.restore` returns: the state, the data pipeline's state, and the caller's ``meta``, as saved."""

    step: int
    state: Any
    data: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Kept on disk: the newest ``keep_latest``, and every one whose step is a multiple of ``keep_every``. During a save
    there is one more. With ``read_only`` nothing is created, cleaned up or moved, as befits sampling and evaluation
    beside a running trainer. ``warn`` receives one line for each checkpoint that is damaged.

    Every process of a distributed run makes the same calls in the same order.
    """

    def __init__(
        self,
        directory: str | Path,
        keep_latest: int = 2,
        keep_every: int | None = None,
        *,
        read_only: bool = False,
        warn: Callable[[str], Any] = logging.warning,
    ):
        if keep_latest < 1:
            raise ValueError(f"keep_latest must be at least 1, got {keep_latest}")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every must be at least 1 or None, got {keep_every}")
        self.directory = Path(directory).absolute()
        self._policy = AnyPreservationPolicy([LatestN(keep_latest)] + ([EveryNSteps(keep_every)] if keep_every else []))
        self._read_only = read_only
        self._warn = warn
        self._writing: int | None = None
        logging.get_absl_logger().addFilter(quiet)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # Explicit policies: `max_to_keep` is also Orbax's default for ranking by a metric, which deletes the newest.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
            lightweight_initialize=True,  # a damaged checkpoint must not stop the opening
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"cannot open {self.directory}: not a directory")
        try:
            return ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(f"cannot open {self.directory}: {_line(error)}") from error

    def _seal(self) -> None:
        """Called by Orbax once the files of a checkpoint are written, just before it is committed by renaming."""
        if jax.process_index() == 0:
            for folder in self.directory.glob(f"{self._writing}.orbax-checkpoint-tmp*"):
                seal.seal(folder, ("state", "record"))

    def steps(self) -> list[int]:
        """The steps on disk in increasing order, damaged ones included until `restore` meets them."""
        # Not Orbax's list: it leaves out a checkpoint that lost its metadata file, which would then go unnoticed.
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit() and path.is_dir())

    def latest_step(self) -> int | None:
        """The newest step on disk or being written, verified or not."""
        return max([*self.steps(), *self._manager.all_steps()], default=None)

    def save(self, step: int, state: Any, data: dict[str, Any], meta: dict[str, Any], wait: bool = False) -> bool:
        """Write a checkpoint; False where this step is there already.

        ``state`` is a pytree of `jax.Array`, ``data`` and ``meta`` are JSON. Once this returns, the buffers of
        ``state`` may be donated; unless ``wait``, the files are still being written, and an error shows in the next
        call. Raises `CheckpointError`, in which case earlier checkpoints are intact.
        """
        if self._read_only:
            raise CheckpointError(f"cannot save step {step}: {self.directory} is open for reading only")
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            if step in self.steps():
                return False
            raise CheckpointError(f"cannot save step {step}: {self.directory} already holds the later step {latest}")
        body = json.loads(json.dumps({"step": step, "leaves": describe(state), "data": data, "meta": meta}))
        record = {"sha256": json_digest(body), "body": body}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), record=ocp.args.JsonSave(record))
        self._writing = step
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._write_error(error) from error
        if wait:
            self.wait()
        return True

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest checkpoint that verifies; None where there has never been one.

        ``abstract_state`` (see `abstract`) gives the tree, shapes, dtypes and shardings; a leaf given as ``...`` is
        neither read nor verified. Newer checkpoints that fail are reported and, once an older one has verified, moved
        aside. Raises `CheckpointError` where none verifies, and where a sound one was saved from another model.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._read(step, abstract_state)
            except _Damaged as error:
                damaged[step] = str(error)
                continue
            for bad, reason in damaged.items():
                self._warn(f"checkpoint {bad} is damaged: {reason}; using {step}{self._set_aside(bad)}")
            if damaged and not self._read_only:
                self._manager.close()
                self._manager = self._open()  # forgets the steps that were moved
            return restored
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise CheckpointError(f"no checkpoint in {self.directory} is sound ({reasons})")
        if self.directory.is_dir() and (aside := sorted(path.name for path in self.directory.glob("damaged-*"))):
            raise CheckpointError(f"no sound checkpoint is left in {self.directory}, only {', '.join(aside)}")
        return None

    def restore_step(self, step: int, abstract_state: Any) -> Restored:
        """The checkpoint of one step, verified; moves nothing. `CheckpointError` where it is absent or damaged."""
        self.wait()
        if step not in (steps := self.steps()):
            raise CheckpointError(f"no checkpoint {step} in {self.directory}; there are: {_listed(steps)}")
        try:
            return self._read(step, abstract_state)
        except _Damaged as error:
            raise CheckpointError(f"checkpoint {step} in {self.directory} is damaged: {error}") from error

    def _read(self, step: int, abstract_state: Any) -> Restored:
        _agreed(lambda: self._require_seal(step))
        body = _agreed(lambda: self._record(step))
        self._require_fit(step, body["leaves"], abstract_state)
        state = _agreed(lambda: self._arrays(step, abstract_state))
        read = describe(state)
        _agreed(lambda: _require_equal(read, body["leaves"]))
        return Restored(step, state, body["data"], body["meta"])

    def _require_seal(self, step: int) -> None:
        if reason := seal.broken(self.directory / str(step)):
            raise _Damaged(reason)

    def _record(self, step: int) -> dict[str, Any]:
        record = self._load(step, "record", ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
        try:
            body, sound = record["body"], record["sha256"] == json_digest(record["body"])
        except (KeyError, TypeError) as error:
            raise _Damaged("its record is unreadable") from error
        if not sound:
            raise _Damaged("its record differs from its own digest")
        if body["step"] != step:
            raise _Damaged(f"its record is that of step {body['step']}")
        return body

    def _arrays(self, step: int, abstract_state: Any) -> Any:
        target = jax.tree.map(_placed, abstract_state)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        args = ocp.args.PyTreeRestore(target, restore_args=restore_args)
        return self._load(step, "state", ocp.PyTreeCheckpointHandler(), args)

    def _load(self, step: int, item: str, handler: ocp.CheckpointHandler, args: Any) -> Any:
        # The manager's own `restore` ends in a barrier, at which the others would wait for a process that failed.
        try:
            with one_error_only():
                return handler.restore(self._manager.directory / str(step) / item, args=args)
        except (MemoryError, jax.errors.JaxRuntimeError):  # of this machine, not of the checkpoint
            raise
        except Exception as error:  # whatever broken files provoke
            raise _Damaged(f"cannot be read: {_line(error)}") from error

    def _require_fit(self, step: int, leaves: dict[str, Any], abstract_state: Any) -> None:
        """A sound record of another tree is the configuration's fault: nothing may be moved aside for it."""
        here = {path: form(leaf) for path, leaf in flatten(abstract_state).items()}
        there = {path: {"dtype": leaf["dtype"], "shape": leaf["shape"]} for path, leaf in leaves.items()}
        left_out = any(leaf is ... for leaf in jax.tree.leaves(abstract_state))
        if left_out:
            there = {path: there[path] for path in there.keys() & here.keys()}
        differing = sorted(path for path in here.keys() | there.keys() if here.get(path) != there.get(path))
        if differing:
            path = differing[0]
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} holds another model: "
                f"{path} is {_shown(there.get(path))} there, {_shown(here.get(path))} here{more}"
            )

    def _set_aside(self, step: int) -> str:
        if self._read_only:
            return ""
        names = [f"damaged-{step}", *(f"damaged-{step}-{i}" for i in range(2, 1000))]
        target = next(self.directory / name for name in names if not (self.directory / name).exists())
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("maskdiff_jax: choose where to set a checkpoint aside")
        if jax.process_index() == 0:
            (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("maskdiff_jax: checkpoint set aside")
        return f" (moved to {target.name})"

    def wait(self) -> None:
        """Block until the last save is on disk. Raises `CheckpointError` where it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"cannot write checkpoint {self._writing} in {self.directory}: {_line(error)}")

    def close(self) -> None:
        """Wait, then release the threads."""
        try:
            self.wait()
        finally:
            self._manager.close()


def abstract(state: Any) -> Any:
    """The shapes, dtypes and shardings of a state: what `Checkpoints.restore` restores into."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def nbytes(state: Any) -> int:
    """The size of a state, concrete or abstract, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def require_space(path: str | Path, size: int) -> None:
    """Raise `CheckpointError` unless ``size`` bytes are free where ``path`` is, or would be created."""
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise CheckpointError(f"not enough disk for {path}: {size / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


def _placed(leaf: Any) -> Any:
    """Without a sharding Orbax would want the devices that the checkpoint was saved from."""
    if leaf is ... or getattr(leaf, "sharding", None) is not None:
        return leaf
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _require_equal(read: dict[str, Any], saved: dict[str, Any]) -> None:
    if differing := [path for path, leaf in read.items() if leaf != saved[path]]:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise _Damaged(f"leaf {differing[0]}: digest differs{more}")


def _agreed(attempt: Callable[[], T]) -> T:
    """The attempt's result; damage where any process met it, as all of them must try the same checkpoint next."""
    result, damage = None, None
    try:
        result = attempt()
    except _Damaged as error:
        damage = error
    if jax.process_count() > 1 and not multihost_utils.process_allgather(damage is None).all():
        raise damage or _Damaged("another process cannot read it")
    if damage:
        raise damage
    return cast(T, result)


def _line(error: BaseException) -> str:
    """The reason in one short line: TensorStore wraps it in the path of reading and the whole storage specification."""
    while error.__cause__ is not None:
        error = error.__cause__
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).split(" [tensorstore_spec")[0].splitlines()), "")
    return f"{type(error).__name__}: {text if len(text) <= 200 else '… ' + text[-200:]}"


def _shown(leaf: dict[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
