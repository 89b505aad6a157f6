"""Where arrays live: a named mesh, and the shardings of batches and of the training state over it.

The step itself is written for one device; jit partitions it. So this file alone knows the mesh's axes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis "data" over ``devices`` (default: all devices of all processes).

    The devices of a process stand side by side, in the order of the processes: each host then holds a contiguous slice
    of every global batch, in the order in which hosts read their data.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every array of a batch, cut over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_state_sharding(mesh: Mesh, shapes: Any) -> Any:
    """Shapes of the training state -> the same with their shardings: everything is replicated."""
    place = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=replicated(mesh))  # noqa: E731
    return jax.tree.map(place, shapes)


def check_batch(size: int, devices: int = 1, accumulate: int = 1) -> None:
    """Raise ValueError unless every micro-batch of a global batch of ``size`` spreads evenly over the devices."""
    if accumulate < 1:
        raise ValueError(f"accumulate is a number of micro-batches, at least 1, got {accumulate}")
    if size < 1 or size % (devices * accumulate):
        raise ValueError(
            f"a global batch of {size} does not divide evenly into {accumulate} micro-batches on {devices} devices: "
            f"use a multiple of {devices * accumulate}"
        )
