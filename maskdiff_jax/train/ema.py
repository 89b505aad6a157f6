"""Exponential moving averages of the parameters, as the last link of an optax chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maskdiff_jax.types import Array, Params


class EmaState(NamedTuple):
    """``count``: updates applied so far; ``ema``: one float32 tree of parameters per decay, keyed by its ``repr``."""

    count: Array
    ema: dict[str, Params]


def params_ema(decays: tuple[float, ...], warmup: bool = True) -> optax.GradientTransformationExtraArgs:
    """Average the parameters that result from the update, and pass the update through.

    Each average starts at the initial parameters and follows ``e <- e + (1 - d)(p - e)`` in float32. With ``warmup``
    the n-th update (from 0) uses ``d = min(decay, (1 + n)/(10 + n))``, so that the initialisation is soon forgotten.
    The transformation needs ``params`` and must stand last in a chain. Raises ValueError for decays outside [0, 1) or
    given twice.
    """
    decays = tuple(float(decay) for decay in decays)
    if not all(0 <= decay < 1 for decay in decays) or len(set(decays)) < len(decays):
        raise ValueError(f"EMA decays must be distinct and in [0, 1), got {decays}")

    def init(params: Params) -> EmaState:
        copy = lambda p: jnp.array(p, jnp.float32)  # noqa: E731  (a shared buffer could not be donated twice)
        return EmaState(jnp.zeros((), jnp.int32), {repr(decay): jax.tree.map(copy, params) for decay in decays})

    def update(updates: Params, state: Any, params: Params = None, **extra: Any) -> tuple[Params, EmaState]:
        if params is None:
            raise ValueError("params_ema needs the parameters: call update(updates, state, params)")
        new = optax.apply_updates(params, updates)

        def follow(decay: float, ema: Params) -> Params:
            # 1 - d: the decay's in Python's double, as float32 would lose 4 of its 7 digits at 0.9999
            rate = jnp.maximum(1 - decay, 9 / (10 + state.count)) if warmup else 1 - decay
            return jax.tree.map(lambda e, p: e + rate * (p.astype(jnp.float32) - e), ema, new)

        ema = {repr(decay): follow(decay, state.ema[repr(decay)]) for decay in decays}
        return updates, EmaState(state.count + 1, ema)

    return optax.GradientTransformationExtraArgs(init, update)


def get_ema(opt_state: optax.OptState, decay: float) -> Params:
    """The averaged parameters for ``decay`` out of an optimizer's state; ValueError where there are none."""
    state = _ema_state(opt_state)
    if repr(float(decay)) not in state.ema:
        raise ValueError(f"no average of the parameters with decay {decay}; there are {sorted(state.ema)}")
    return state.ema[repr(float(decay))]


def applied_updates(opt_state: optax.OptState) -> Array:
    """How many updates were applied, skipped ones left out: the argument of the learning-rate schedule."""
    return _ema_state(opt_state).count


def _ema_state(opt_state: optax.OptState) -> EmaState:
    state = optax.tree.get(opt_state, "EmaState")
    if state is None:
        raise ValueError("the optimizer keeps no average of the parameters: add params_ema as its last transformation")
    return state
