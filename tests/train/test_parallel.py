"""The mesh, the shardings, and the check of batch sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from maskdiff_jax.train.optim import adam, constant, make_optimizer
from maskdiff_jax.train.parallel import batch_sharding, check_batch, make_mesh, replicated
from maskdiff_jax.train.state import abstract_state, init_state
from maskdiff_jax.types import Model


def test_mesh_takes_all_devices_in_order():
    mesh = make_mesh(jax.devices()[::-1])
    assert mesh.axis_names == ("data",) and mesh.axis_types == (AxisType.Auto,)
    assert list(mesh.devices) == jax.devices() and mesh.size == 8
    assert make_mesh() == mesh


def test_a_batch_gives_each_device_its_contiguous_part():
    mesh = make_mesh()
    batch = jax.device_put(np.arange(16, dtype=np.int32), batch_sharding(mesh))
    for i, device in enumerate(mesh.devices):
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
