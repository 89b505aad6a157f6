"""Where arrays live: a named mesh, and the shardings of batches and of the training state over it.

The step is written for one device. The engine `jit` lets the compiler partition it, over both axes of the mesh;
`shard_map` hands every device its part of the batch. So this file alone knows the mesh's axes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
WHOLE = 1024  # arrays of fewer numbers stay whole: cutting them saves nothing and costs a message each

Gradient = Callable[..., Any]  # (params, batch, draws, key) -> (gradient, metrics), means over the batch
Engine = Callable[[Gradient], Gradient]


def make_mesh(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over ``devices`` (default: all devices of all processes) with the axes "data" and "fsdp".

    A batch is cut over both axes, the training state over "fsdp" alone, which has ``fsdp`` devices, 0 meaning all of
    them: 1 is data parallelism, all devices is full sharding, a number between them is full sharding within each group
    of neighbours and data parallelism across the groups.

    The devices of a process stand side by side, in the order of the processes: each host then holds a contiguous slice
    of every global batch, in the order in which hosts read their data. Raises ValueError where the devices do not
    divide into groups of ``fsdp``.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    group = groups_of(len(devices), fsdp)
    return Mesh(np.array(devices).reshape(-1, group), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def groups_of(devices: int, fsdp: int) -> int:
    """The size of the axis "fsdp" on that many devices. Raises ValueError where they do not divide."""
    if fsdp < 0 or (fsdp and devices % fsdp):
        raise ValueError(f"{devices} devices do not divide into groups of {fsdp}: use a divisor, or 0 for all of them")
    return fsdp or devices


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every array of a batch, cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_state_sharding(mesh: Mesh, shapes: Any) -> Any:
    """Shapes of parameters or of a training state -> the same with their shardings.

    Each array is cut over "fsdp" along the largest of its axes that divides; small ones, and those of which no axis
    divides, are replicated.
    """
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=_cut(mesh, s.shape)), shapes)


def _cut(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    group = mesh.shape["fsdp"]
    fitting = [axis for axis, size in enumerate(shape) if size % group == 0]
    if group == 1 or not fitting or np.prod(shape) < WHOLE:
        return replicated(mesh)
    widest = max(fitting, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * widest, "fsdp"))


def place(mesh: Mesh, tree: Any) -> Any:
    """Host arrays, the same on every process, with their leading axis cut over the devices."""
    return jax.tree.map(lambda x: _put(x, batch_sharding(mesh)), tree)


def place_params(mesh: Mesh, params: Any) -> Any:
    """Parameters, the same on every process, where `with_state_sharding` has them."""
    return jax.tree.map(lambda x: _put(x, _cut(mesh, x.shape)), params)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x
    return jax.make_array_from_callback(np.shape(x), sharding, np.asarray(x).__getitem__)


def collect(array: jax.Array) -> np.ndarray:
    """The whole of an array, whose parts may lie with other processes. Every process must call this together."""
    return np.asarray(array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True))


def by_compiler(mesh: Mesh) -> Engine:
    """The gradient as it is: jit partitions it as the shardings of its arguments say."""
    return lambda gradient: gradient


def by_device(mesh: Mesh) -> Engine:
    """The gradient under `jax.shard_map`: each device takes that of its part of the batch, and all take the mean.

    Times, noise and masks are in the draws, made outside for the whole batch, and so the same as under jit. What the
    network draws itself (drop-out of activations) is another draw, from a key of each device's own. Raises ValueError
    where parameters are cut: data parallelism only.
    """
    if mesh.shape["fsdp"] > 1:
        raise ValueError("shard_map is data-parallel: it takes parallel.fsdp=1; jit cuts parameters, too")
    part, whole = PartitionSpec(AXES), PartitionSpec()

    def engine(gradient: Gradient) -> Gradient:
        def local(params: Any, batch: Any, draws: Any, key: jax.Array) -> Any:
            own = jax.random.fold_in(key, jax.lax.axis_index(AXES))
            return jax.lax.pmean(gradient(params, batch, draws, own), AXES)

        # Without the check of what is replicated, gradients arrive as each device's own: `pmean` is then their mean.
        specs: Any = {"in_specs": (whole, part, part, whole), "out_specs": whole, "check_vma": False}
        return jax.shard_map(local, mesh=mesh, **specs)

    return engine


ENGINES: dict[str, Callable[[Mesh], Engine]] = {"jit": by_compiler, "shard_map": by_device}


def check_batch(size: int, devices: int = 1, accumulate: int = 1) -> None:
    """Raise ValueError unless every micro-batch of a global batch of ``size`` spreads evenly over the devices."""
    if accumulate < 1:
        raise ValueError(f"accumulate is a number of micro-batches, at least 1, got {accumulate}")
    if size < 1 or size % (devices * accumulate):
        raise ValueError(
            f"a global batch of {size} does not divide evenly into {accumulate} micro-batches on {devices} devices: "
            f"use a multiple of {devices * accumulate}"
        )
