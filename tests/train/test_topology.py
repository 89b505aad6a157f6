"""A run goes on elsewhere: on more or fewer devices, cut or in full copies, from more or fewer hosts."""

import itertools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskdiff_jax.data import Batches, crop, feed
from maskdiff_jax.train import digest
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.digest import describe
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.parallel import batch_sharding, make_mesh, with_state_sharding
from maskdiff_jax.train.reading import abstract
from maskdiff_jax.train.state import TrainState
from tests.data.conftest import numbered


class Place(NamedTuple):
    """``fsdp`` devices of each group of a mesh hold the state together; 1 is a full copy on each."""

    devices: int
    fsdp: int


def fresh_state(seed: int) -> TrainState:
    """Parameters, moments and averages, every leaf other numbers, with NaN, infinities and -0 among them."""
    random = np.random.default_rng(seed)
    params = {
        "embed": random.normal(size=(16, 96)).astype(np.float32),
        "block": {"kernel": random.normal(size=(6, 40, 64)).astype(jnp.bfloat16), "bias": np.zeros(7, np.float32)},
    }
    optimizer = make_optimizer(adamw(), constant(10, 1e-3), clip=1.0, ema=(0.5, 0.9))
    fresh = TrainState(jnp.int32(seed), params, jax.jit(optimizer.init)(params))
    other = lambda leaf: np.asarray(leaf) + random.normal(size=leaf.shape).astype(leaf.dtype)  # noqa: E731
    state = jax.tree.map(lambda leaf: np.asarray(leaf) if leaf.dtype == bool else other(leaf), fresh)
    state.params["embed"][0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    return state


def wanted(place: Place, state: TrainState) -> TrainState:
    return with_state_sharding(make_mesh(jax.devices()[: place.devices], place.fsdp), jax.eval_shape(lambda: state))


def cut_leaves(tree) -> int:
    return sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree))


def assert_placed(state, shapes, values):
    """Where the shapes say, and bit for bit the values."""
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for leaf, shape, value in zip(*map(jax.tree.leaves, (state, shapes, values)), strict=True):
        assert (leaf.dtype, leaf.shape, leaf.sharding) == (shape.dtype, shape.shape, shape.sharding)
        assert np.asarray(leaf).tobytes() == value.tobytes()
        for shard in leaf.addressable_shards:
            assert np.asarray(shard.data).tobytes() == value[shard.index].tobytes()


JOURNEYS = {
    "eight devices, one, four": [Place(8, 1), Place(1, 1), Place(4, 1)],
    "copies, cut, copies": [Place(8, 1), Place(8, 8), Place(8, 1)],
    "cut otherwise": [Place(8, 8), Place(4, 2), Place(8, 4), Place(1, 1), Place(2, 2)],
}


@pytest.mark.parametrize("journey", JOURNEYS.values(), ids=JOURNEYS.keys())
def test_a_state_is_the_same_wherever_it_is_restored(journey, tmp_path):
    """Bit for bit, with the same digests in every record, and cut where it was asked to be."""
    values = fresh_state(len(journey))
    state = jax.tree.map(lambda v, s: jax.device_put(v, s.sharding), values, wanted(journey[0], values))
    checkpoints = Checkpoints(tmp_path, keep_latest=9)
    for step, (here, there) in enumerate(itertools.pairwise([*journey, journey[0]])):
        assert (cut_leaves(state) > 0) == (here.fsdp > 1)
        checkpoints.save(step, state, {}, {})
        shapes = wanted(there, values)
        state = checkpoints.restore(shapes).state
        assert_placed(state, shapes, values)
    checkpoints.close()
    records = [json.loads(path.read_text())["body"]["leaves"] for path in tmp_path.glob("*/record/metadata")]
    assert len(records) == len(journey) and all(leaves == records[0] for leaves in records)
    assert records[0] == describe(values_on_one_device(values))


def values_on_one_device(values):
    return jax.tree.map(lambda value: jax.device_put(value, jax.devices()[-1]), values)


@pytest.mark.parametrize("spec", [("data",), ("fsdp",), (None, "fsdp"), ("fsdp", "data"), (("fsdp", "data"),), ()])
def test_digests_do_not_depend_on_the_sharding(spec):
    mesh = make_mesh(fsdp=2)
    random = np.random.default_rng(0)
    arrays = {
        "float32": random.normal(size=(16, 8)).astype(np.float32),
        "bfloat16": random.normal(size=(8, 8, 3)).astype(jnp.bfloat16),
        "bool": random.random((24, 4)) < 0.5,
        "uint8": random.integers(0, 256, (8, 4), np.uint8),
    }
    placed = jax.tree.map(lambda array: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec))), arrays)
    expected = {
        name: {"dtype": name, "shape": list(array.shape), "sha256": digest.array_digest(array)}
        for name, array in arrays.items()
    }
    assert describe(placed) == describe(values_on_one_device(arrays)) == expected


class Leaf:
    """An array that counts how many of its kind are in this host's memory as a whole."""

    dtype, shape, is_fully_addressable = np.dtype(np.float32), (3,), True
    alive = most = 0

    def __array__(self, dtype=None, copy=None):
        class Whole(np.ndarray):
            def __del__(self):
                Leaf.alive -= self.base is None

        Leaf.alive += 1
        Leaf.most = max(Leaf.most, Leaf.alive)
        return np.ndarray.__new__(Whole, 3, np.float32)


def test_a_state_is_never_in_the_hosts_memory_as_a_whole(monkeypatch):
    """Leaves that had to be gathered are dropped as soon as they are hashed, however slow that is."""
    monkeypatch.setattr(digest, "host_array", lambda leaf: leaf.__array__())
    described = describe({f"{i:03d}": Leaf() for i in range(200)})
    assert list(described) == [f"{i:03d}" for i in range(200)]
    assert Leaf.most <= 2 * digest.AT_ONCE and Leaf.alive == 0


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 4)])
def test_the_next_batch_is_the_same_on_any_number_of_hosts(before, after, tmp_path):
    """The hosts' slices, side by side, are the batches of one host that was never interrupted."""
    source, options = numbered(30), {"batch": 8, "seed": 3, "augment": crop(1)}
    one = Batches(source, **options)
    straight = [next(one) for _ in range(8)]
    first = [Batches(source, **options, process_index=i, process_count=before) for i in range(before)]
    for _ in range(5):
        parts = [next(host) for host in first]
    assert_same_batch(parts, straight[4])
    states = [host.get_state() for host in first]
    assert all(state == states[0] for state in states)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {"a": jnp.zeros(3)}, states[0], {})
    position = checkpoints.restore(abstract({"a": jnp.zeros(3)})).data
    checkpoints.close()
    hosts = [Batches(source, **options, process_index=i, process_count=after) for i in range(after)]
    for host in hosts:
        host.set_state(position)
    for batch in straight[5:]:
        assert_same_batch([next(host) for host in hosts], batch)
    for batches in (one, *first, *hosts):
        batches.close()


def assert_same_batch(parts, whole):
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    assert jax.tree.structure(together) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, together, whole)


def test_the_next_batch_is_the_same_on_any_number_of_devices():
    """With what was in flight before; each device holds its part of it."""
    source = numbered(30)

    def batches(devices, position=None):
        mesh = make_mesh(jax.devices()[:devices])
        stream = feed(source, 8, 3, crop(1), sharding=batch_sharding(mesh)).batches
        if position is not None:
            stream.set_state(position)
        found = [next(stream) for _ in range(3)]
        assert len(found[0]["image"].addressable_shards) == devices
        stream.close()
        return jax.tree.map(np.asarray, found), stream.get_state()

    straight, position = batches(8)
    assert position["step"] == 3
    following, _ = batches(8, position)
    assert not np.array_equal(straight[0]["index"], following[0]["index"])
    for devices in (1, 2, 4):
        again, _ = batches(devices, position)
        jax.tree.map(np.testing.assert_array_equal, again, following)
