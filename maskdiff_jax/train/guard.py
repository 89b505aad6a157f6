"""Steps whose gradient cannot be trusted: not finite, or far larger than those before. They change nothing.

The guard surrounds an optimiser. A bad step leaves parameters, moments, averages and the schedule's count as they are,
whatever follows; how many there were, and how many in a row, is in its state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maskdiff_jax.types import Array, Params

MEMORY = 0.99  # of the running mean of gradient norms, about the last hundred steps
LEAST = 20  # finite gradients before one can be called a spike


class GuardState(NamedTuple):
    """What the guard remembers.

    ``in_row``, ``total``, ``finite``: int32 counts of bad steps in a row, of bad steps, and of finite gradients.
    ``norm``: float32, the running mean of these gradients' norms, spikes taken at the bound.
    ``last_good``: whether the last step was applied.
    """

    in_row: Array
    total: Array
    last_good: Array
    finite: Array
    norm: Array
    inner_state: optax.OptState


def init_guard(chain: optax.GradientTransformation, params: Params) -> GuardState:
    """The state before the first step, around that of ``chain``."""
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731  (a shared buffer could not be donated twice)
    return GuardState(zero(), zero(), jnp.array(True), zero(), jnp.zeros((), jnp.float32), chain.init(params))


def guarded(
    chain: optax.GradientTransformation, spike: float = 0.0
) -> Callable[[Params, GuardState, Params], tuple[Params, GuardState]]:
    """``apply(grads, state, params) -> (params, state)``: as the chain does, unless the gradient is bad.

    Bad is a global norm that is inf or NaN, and with ``spike`` > 0 one above ``spike`` times the running mean of the
    norms, once there were `LEAST`. A norm that is not finite leaves the mean as it is, and a spike enters it at the
    bound only: one does not move it much, a lasting change of scale is accepted after some steps.
    Raises ValueError for a ``spike`` that is not 0 or more than 1.

    The update is applied inside the branch: `optax.apply_if_finite`, which hands updates out of it, costs another copy
    of the parameters.
    """
    check_spike(spike)

    def update(grads: Params, inner: Any, params: Params) -> tuple[Params, Any]:
        updates, inner = chain.update(grads, inner, params)
        return optax.apply_updates(params, updates), inner

    def apply(grads: Params, state: GuardState, params: Params) -> tuple[Params, GuardState]:
        norm = optax.tree.norm(grads).astype(jnp.float32)
        is_finite = jnp.isfinite(norm)
        mean = state.norm / (1 - MEMORY ** jnp.maximum(state.finite, 1))  # as Adam's: zero weighs nothing
        most = jnp.finfo(jnp.float32).max  # no infinity, which `debug_infs` would find
        bound = jnp.where(state.finite >= LEAST, jnp.minimum(spike * mean, most), most) if spike else jnp.float32(most)
        good = is_finite & (norm <= bound)
        keep = lambda grads, inner, params: (params, inner)  # noqa: E731
        params, inner = jax.lax.cond(good, update, keep, grads, state.inner_state, params)
        following = MEMORY * state.norm + (1 - MEMORY) * jnp.minimum(norm, bound)
        return params, GuardState(
            in_row=jnp.where(good, 0, optax.safe_increment(state.in_row)),
            total=jnp.where(good, state.total, optax.safe_increment(state.total)),
            last_good=good,
            finite=jnp.where(is_finite, optax.safe_increment(state.finite), state.finite),
            norm=jnp.where(is_finite, following, state.norm),
            inner_state=inner,
        )

    return apply


def check_spike(spike: float) -> None:
    """Raise ValueError for a bound that is not 0 or more than 1."""
    if not (spike == 0 or spike > 1):
        raise ValueError(f"spike is a multiple of the mean gradient norm, more than 1, or 0 for no bound, got {spike}")


def get_guard(opt_state: optax.OptState) -> GuardState:
    """The guard's state out of an optimiser's. Raises ValueError where there is none."""
    if isinstance(opt_state, GuardState):
        return opt_state
    raise ValueError("the optimizer has no guard: make it by make_optimizer")
