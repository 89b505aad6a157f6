"""The training state, and its creation in place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from maskdiff_jax.train.optim import Optimizer
from maskdiff_jax.train.parallel import with_state_sharding
from maskdiff_jax.types import Array, Key, Model, Params


class TrainState(NamedTuple):
    """``step``: steps taken, skipped ones included (int32); the keys of a step are a function of it."""

    step: Array
    params: Params
    opt_state: optax.OptState


def abstract_state(model: Model, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, computing nothing: what a checkpoint is restored into."""
    return with_state_sharding(mesh, jax.eval_shape(_init(model, optimizer), jax.random.key(0)))


def init_state(model: Model, optimizer: Optimizer, key: Key, mesh: Mesh) -> TrainState:
    """A fresh state. One compiled call, so that every leaf is born where it lives and never whole on one device."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh))
    return jax.jit(_init(model, optimizer), out_shardings=shardings)(key)


def state_from(params: Params, optimizer: Optimizer, step: int, mesh: Mesh) -> TrainState:
    """The state of given parameters after ``step`` steps, with a fresh optimiser and fresh averages."""

    def start(params: Params) -> TrainState:
        return TrainState(jnp.int32(step), params, optimizer.init(params))

    shapes = with_state_sharding(mesh, jax.eval_shape(start, params))
    return jax.jit(start, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(params)


def _init(model: Model, optimizer: Optimizer):
    def init(key: Key) -> TrainState:
        params = model.init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return init
