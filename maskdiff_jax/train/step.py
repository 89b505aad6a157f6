"""One training step: a pure function of the state, the data and the root key."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maskdiff_jax import rng
from maskdiff_jax.diffusion.objective import Draws, Objective
from maskdiff_jax.train.ema import applied_updates
from maskdiff_jax.train.guard import get_guard
from maskdiff_jax.train.optim import Optimizer
from maskdiff_jax.train.parallel import Engine, check_batch
from maskdiff_jax.train.state import TrainState
from maskdiff_jax.types import Array, Batch, Key, Params

Metrics = dict[str, Array]
# (state, raw, root key, tables=None) -> (state, metrics)
Step = Callable[..., tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    optimizer: Optimizer,
    ingest: Callable[[Any, Any], Batch],
    accumulate: int = 1,
    engine: Engine = lambda gradient: gradient,
) -> Step:
    """``step(state, raw, root, tables=None) -> (state, metrics)``, for `jit_step`.

    ``ingest(raw, tables)`` turns what the data pipeline delivers into a `Batch`; ``tables`` are arrays that stay on the
    device. All random choices of a step derive from ``fold_in(root, state.step)`` and are drawn once for the whole
    batch; ``accumulate`` micro-batches then slice data and draws alike, which leaves the gradient unchanged.
    ``engine`` takes the gradient on the devices of a mesh: a value of `parallel.ENGINES`.
    The metrics are scalars: the loss, the objective's own, ``learning_rate``, ``grad_norm`` (before clipping),
    ``param_norm``, ``skipped`` (1 where the guard refused the gradient; loss and grad_norm may then be NaN),
    ``skipped_in_row`` and ``skipped_total``.
    """

    def mean_loss(params: Params, batch: Batch, draws: Draws, key: Key) -> tuple[Array, Metrics]:
        loss, metrics = objective.per_image(params, batch, draws, train=True, key=key)
        return jnp.mean(loss), jax.tree.map(jnp.mean, {**metrics, "loss": loss})

    gradient = jax.grad(mean_loss, has_aux=True)
    gradient = engine(gradient if accumulate == 1 else _accumulated(gradient, accumulate))

    def step(state: TrainState, raw: Any, root: Key, tables: Any = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(root, state.step)
        batch = ingest(raw, tables)
        check_batch(batch.image.shape[0], accumulate=accumulate)
        draws, network = objective.draw(batch, key), rng.key_for(key, "network")
        grads, metrics = gradient(state.params, batch, draws, network)
        rate = optimizer.learning_rate(applied_updates(state.opt_state))
        params, opt_state = optimizer.apply(grads, state.opt_state, state.params)
        guard = get_guard(opt_state)
        metrics |= {
            "learning_rate": jnp.asarray(rate),
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "skipped": 1 - guard.last_good.astype(jnp.int32),
            "skipped_in_row": guard.in_row,
            "skipped_total": guard.total,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def repeated(step: Step) -> Step:
    """``several(state, raws, root, tables=None)``: a ``step`` for each of several raw batches, as one `jax.lax.scan`.

    The metrics are stacked [n], one of each step.
    """

    def several(state: TrainState, raws: Sequence[Any], root: Key, tables: Any = None) -> tuple[TrainState, Metrics]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *raws)
        return jax.lax.scan(lambda state, raw: step(state, raw, root, tables), state, stacked)

    return several


def jit_step(step: Step, state: TrainState) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile ``step`` for states placed like ``state`` (live or abstract): same placement out, buffers reused.

    Metrics are placed like the step counter: replicated.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, shardings.step))


def _accumulated(gradient: Callable, count: int) -> Callable:
    """``gradient(params, batch, draws, key)``, taken as the mean over ``count`` micro-batches, one after the other."""

    def mean_gradient(params: Params, batch: Batch, draws: Draws, key: Key) -> tuple[Params, Metrics]:
        def add(total: Params, piece: tuple[Batch, Draws, Key]) -> tuple[Params, Metrics]:
            grads, metrics = gradient(params, *piece)
            return jax.tree.map(jnp.add, total, grads), metrics

        pieces = (*_slices((batch, draws), count), rng.per_image(key, count))  # one key per micro-batch
        total, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), pieces)
        return jax.tree.map(lambda g: g / count, total), jax.tree.map(jnp.mean, metrics)

    return mean_gradient


def _slices(tree: Any, count: int) -> Any:
    """Leaves [b, ...] -> [count, b/count, ...], strided: slice i holds images i, i + count, ...

    A batch cut over devices in contiguous parts thereby gives every device its share of every slice: no data moves.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), tree)
