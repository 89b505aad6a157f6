"""The mesh, the shardings, and the check of batch sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from maskdiff_jax.train.optim import adam, constant, make_optimizer
from maskdiff_jax.train.parallel import (
    batch_sharding,
    check_batch,
    collect,
    make_mesh,
    place,
    place_params,
    replicated,
    with_state_sharding,
)
from maskdiff_jax.train.state import abstract_state, init_state
from maskdiff_jax.types import Model


def test_mesh_takes_all_devices_in_order():
    mesh = make_mesh(jax.devices()[::-1])
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1} and mesh.axis_types == (AxisType.Auto,) * 2
    assert list(mesh.devices.flat) == jax.devices()
    assert make_mesh() == mesh
    assert dict(make_mesh(fsdp=0).shape) == {"data": 1, "fsdp": 8}
    neighbours = make_mesh(fsdp=2)
    assert [list(group) for group in neighbours.devices] == [jax.devices()[i : i + 2] for i in range(0, 8, 2)]
    with pytest.raises(ValueError, match="8 devices do not divide into groups of 3"):
        make_mesh(fsdp=3)


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_large_arrays_are_cut_along_their_widest_axis_that_divides(fsdp):
    mesh = make_mesh(fsdp=fsdp)
    shapes = {"wide": (64, 256), "tall": (256, 64), "odd": (257, 64), "prime": (257, 31), "small": (8, 8), "count": ()}
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    parts = {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in with_state_sharding(mesh, shapes).items()}
    assert parts == {
        "wide": (64, 256 // fsdp),
        "tall": (256 // fsdp, 64),
        "odd": (257, 64 // fsdp),
        "prime": (257, 31),
        "small": (8, 8),
        "count": (),
    }


def test_what_is_placed_is_collected_again():
    mesh = make_mesh(fsdp=4)
    host = {"x": np.arange(48, dtype=np.int32).reshape(16, 3), "w": np.random.default_rng(0).normal(size=(64, 64))}
    placed = place(mesh, {"x": host["x"]}) | place_params(mesh, {"w": host["w"].astype(np.float32)})
    assert placed["x"].sharding.shard_shape((16, 3)) == (2, 3)
    assert placed["w"].sharding.shard_shape((64, 64)) == (16, 64)
    np.testing.assert_array_equal(collect(placed["x"]), host["x"])
    np.testing.assert_array_equal(collect(placed["w"]), host["w"].astype(np.float32))


def test_a_batch_gives_each_device_its_contiguous_part():
    mesh = make_mesh()
    batch = jax.device_put(np.arange(16, dtype=np.int32), batch_sharding(mesh))
    for i, device in enumerate(mesh.devices.flat):
        shard = next(s for s in batch.addressable_shards if s.device == device)
        np.testing.assert_array_equal(shard.data, [2 * i, 2 * i + 1])


def test_uneven_batches_are_refused():
    check_batch(32, 8, 4)
    with pytest.raises(ValueError, match=r"batch of 24 .* 2 micro-batches on 8 devices: use a multiple of 16"):
        check_batch(24, 8, 2)
    with pytest.raises(ValueError, match="multiple of 8"):
        check_batch(0, 8)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        check_batch(8, 8, 0)


def test_state_is_born_where_the_abstract_state_says():
    """Same leaves, dtypes and places; the same numbers as eager initialisation; no two leaves share a buffer."""
    mesh, key = make_mesh(), jax.random.key(3)
    model = Model(lambda key: {"w": jax.random.normal(key, (4, 2)), "b": jnp.zeros(2)}, apply=lambda *_: None)
    optimizer = make_optimizer(adam(), constant(10, 0.1), ema=(0.9, 0.99))
    abstract, state = abstract_state(model, optimizer, mesh), init_state(model, optimizer, key, mesh)

    def same(shape, leaf):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
        assert leaf.committed and leaf.sharding == shape.sharding == replicated(mesh)

    jax.tree.map(same, abstract, state)
    assert state.step == 0 and state.step.dtype == jnp.int32
    jax.tree.map(np.testing.assert_array_equal, state.params, model.init(key))
    buffers = [leaf.addressable_shards[0].data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
