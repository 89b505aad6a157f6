"""One device, many, cut parameters, and shard_map: the same training, from the same masks and noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.inputs import default
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.prediction import PREDICTIONS
from maskdiff_jax.diffusion.process import linear_flow
from maskdiff_jax.diffusion.times import stratified
from maskdiff_jax.diffusion.weighting import constant as constant_weight
from maskdiff_jax.masks import SUPERVISIONS, VISIBILITIES
from maskdiff_jax.models import MODELS
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.parallel import ENGINES, batch_sharding, make_mesh
from maskdiff_jax.train.state import abstract_state, state_from
from maskdiff_jax.train.step import jit_step, make_step
from maskdiff_jax.types import Batch, Cond
from tests.models.perturb import perturbed

BATCH, ROOT = 16, jax.random.key(5)
MODEL = MODELS["dit"]((8, 8, 1), 10, patch=2, width=32, depth=1, heads=2)
OPTIMIZER = make_optimizer(adamw(weight_decay=0.1), constant(10, 1e-3), clip=0.1, ema=(0.9,))
LAYOUTS = {  # devices, size of the axis fsdp, engine, micro-batches
    "one device": (1, 1, "jit", 1),
    "data": (8, 1, "jit", 1),
    "fully sharded": (8, 0, "jit", 1),
    "shard_map, accumulated": (8, 1, "shard_map", 2),
}


@functools.cache
def objective():
    return make_objective(
        MODEL,
        linear_flow(),
        PREDICTIONS["velocity"](),
        constant_weight("velocity"),
        stratified(),
        SUPERVISIONS["sparse"](ratio=0.5),
        inputs=default(),
        passes=((1.0, VISIBILITIES["patch"](ratio=0.5)),),
    )


def ingest(raw, _):
    return Batch(raw["image"], Cond(label=raw["label"]))


def raw_batch(i):
    random = np.random.default_rng(i)
    image = random.uniform(-1, 1, (BATCH, 8, 8, 1)).astype(np.float32)
    return {"image": image, "label": random.integers(0, 10, BATCH).astype(np.int32)}


@functools.cache
def first_params():
    return jax.device_get(perturbed(jax.jit(MODEL.init)(jax.random.key(0))))


@functools.cache
def trained(layout):
    """The state after five steps, fetched; and the metrics of each."""
    devices, fsdp, engine, accumulate = LAYOUTS[layout]
    mesh = make_mesh(jax.devices()[:devices], fsdp)
    state = state_from(first_params(), OPTIMIZER, 0, mesh)
    step = jit_step(make_step(objective(), OPTIMIZER, ingest, accumulate, ENGINES[engine](mesh)), state)
    history = []
    for i in range(5):
        state, metrics = step(state, jax.device_put(raw_batch(i), batch_sharding(mesh)), ROOT)
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_every_layout_trains_as_one_device_does(layout):
    state, history = trained(layout)
    expected, whole = trained("one device")
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, state.params, expected.params)
    jax.tree.map(close, state.opt_state, expected.opt_state)
    for ours, theirs in zip(history, whole, strict=True):
        assert ours["grad_norm"] > 0.1  # clipping is active
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours, theirs)


def test_draws_are_bit_equal_on_any_devices():
    """Times, noise, drop-out of conditions and both masks, as the objective makes them of a batch and a key."""
    parts = objective()

    @jax.jit
    def drawn(batch, key):
        draws = parts.draw(batch, key)
        hidden = VISIBILITIES["patch"](ratio=0.5).sample(draws.keys, (4, 4))
        mask = SUPERVISIONS["sparse"](ratio=0.5).sample(draws.keys, (16, 2, 2, 1))
        return draws.t, draws.weight, jax.random.key_data(draws.keys), draws.cond, hidden, mask

    batch = ingest(raw_batch(0), None)
    for fsdp in (1, 0):
        spread = drawn(jax.device_put(batch, batch_sharding(make_mesh(fsdp=fsdp))), ROOT)
        assert len(spread[0].sharding.device_set) == 8
        jax.tree.map(np.testing.assert_array_equal, spread, drawn(batch, ROOT))


def test_a_cut_state_is_an_eighth_on_each_device():
    shapes = abstract_state(MODEL, OPTIMIZER, make_mesh(fsdp=0))
    part = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    whole = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    small = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.sharding.is_fully_replicated)
    assert part == (whole - small) / 8 + small < whole / 4


def test_shard_map_does_not_cut_parameters():
    with pytest.raises(ValueError, match=r"shard_map is data-parallel: it takes parallel.fsdp=1"):
        ENGINES["shard_map"](make_mesh(fsdp=2))
    assert jnp.isfinite(trained("shard_map, accumulated")[1][-1]["loss"])
