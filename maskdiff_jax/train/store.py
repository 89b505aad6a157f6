"""What Orbax does for checkpoints: it writes their folders, keeps some of them, and reads them (its only importer).

A checkpoint has two items: ``state``, a pytree of arrays, and ``record``, JSON.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from maskdiff_jax.train import failing
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.train.keeping import Best
from maskdiff_jax.train.reading import Load


class Manager(ocp.CheckpointManager):
    """Orbax's manager, but for a question that is the loop's alone."""

    def reached_preemption(self, step: int) -> bool:
        # The runtime agrees on a step to stop at from the steps that it is asked about, in order. Orbax asks again, and
        # from its thread about a step that has passed, which would move what was agreed.
        return False


def kept(latest: int, every: int | None, steps: Sequence[int], best: Best) -> AnyPreservationPolicy:
    """Keeps the ``latest``, multiples of ``every``, the ``steps`` and the ``best``."""
    # Explicit policies: `max_to_keep` is also Orbax's default for ranking by a metric, which deletes the newest.
    policies = [LatestN(latest), CustomSteps(list(steps)), best]
    return AnyPreservationPolicy(policies + ([EveryNSteps(every)] if every else []))


def open_manager(directory: Path, keep: AnyPreservationPolicy, read_only: bool, written: Callable[[], None]) -> Manager:
    """The manager of the checkpoints in ``directory``; ``read_only`` creates and cleans up nothing.

    ``written`` is called once the files of a checkpoint are there, just before it is committed by renaming.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        lightweight_initialize=True,  # a damaged checkpoint must not stop the opening
        async_options=ocp.options.AsyncOptions(
            barrier_sync_fn=failing.unless_failing(ocp.multihost.get_barrier_sync_fn()),
            post_finalization_callback=written,
            create_directories_asynchronously=False,  # where that fails, threads would wait for them for ever
        ),
    )
    # Devices with copies of an array share its writing, by a program for each shape that cuts it: not for small ones.
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=1 << 20)
    types = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(type_handler_registry=types),
        "record": ocp.JsonCheckpointHandler(),
    }
    return Manager(directory, options=options, item_handlers=handlers)


def save(manager: Manager, step: int, state: Any, record: Any) -> None:
    """Begin to write a checkpoint; the buffers of ``state`` may be donated once this returns."""
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), record=ocp.args.JsonSave(record))
    manager.save(step, args=items, force=True)


def _record(folder: Path) -> Any:
    return ocp.JsonCheckpointHandler().restore(epath.Path(folder), args=ocp.args.JsonRestore())


def _arrays(folder: Path, target: Any) -> Any:
    args = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
    return ocp.PyTreeCheckpointHandler().restore(epath.Path(folder), args=args)


def _some(folder: Path, paths: set[str]) -> dict[str, np.ndarray]:
    handler, at = ocp.PyTreeCheckpointHandler(), epath.Path(folder)
    # Orbax's own account of the tree: a record's paths do not tell sequences from dicts, which Orbax minds.
    tree = handler.metadata(at).tree
    leaves = [leaf if path in paths else ... for path, leaf in flatten(tree).items()]
    wanted = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    read = flatten(handler.restore(at, args=ocp.args.PyTreeRestore(wanted, restore_args=as_numpy)))
    return {path: np.asarray(array) for path, array in read.items()}


LOAD = Load(_record, _arrays, _some)
