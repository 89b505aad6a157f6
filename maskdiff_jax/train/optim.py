"""Optimizers: update rules and learning-rate schedules by name, and the chain that a training run uses."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maskdiff_jax.train.ema import params_ema
from maskdiff_jax.train.guard import guarded, init_guard
from maskdiff_jax.types import Params


class Optimizer(NamedTuple):
    """``init(params) -> state``, ``apply(grads, state, params) -> (params, state)``, and the rate for logs.

    ``learning_rate(applied updates)`` is the schedule. The state is a `GuardState` around that of a chain.
    """

    init: optax.TransformInitFn
    apply: Callable[[Params, Any, Params], tuple[Params, Any]]
    learning_rate: optax.Schedule


def make_optimizer(
    rule: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    clip: float | None = None,
    ema: tuple[float, ...] = (0.9999,),
    ema_warmup: bool = True,
    spike: float = 0.0,
) -> Optimizer:
    """Clip by the global norm, apply ``rule`` at the scheduled rate, average the parameters.

    rule: update direction of unit learning rate, a value of `OPTIMIZERS`; schedule: a value of `SCHEDULES`.
    clip: largest global norm of the gradient, None for no clipping. ema, ema_warmup: see `params_ema`.
    A gradient that is not finite is skipped, and so is one of more than ``spike`` times the usual norm: see `guarded`.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, or None for no clipping, got {clip}")
    links = [rule, optax.scale_by_learning_rate(schedule), params_ema(ema, ema_warmup)]
    if clip is not None:
        links.insert(0, clip_by_global_norm(clip))
    chain = optax.chain(*links)
    return Optimizer(partial(init_guard, chain), guarded(chain, spike), schedule)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale gradients of a global norm above ``limit`` down to it, as `optax.clip_by_global_norm` does.

    By one factor instead of optax's choice between a gradient and its quotient: the compiler then fuses it into the
    update rule, where that one writes a second copy of the gradient.
    """

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        scale = jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(updates), jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) with bias correction."""
    if not (0 <= b1 < 1 and 0 <= b2 < 1 and eps > 0):
        raise ValueError(f"Adam needs b1, b2 in [0, 1) and eps > 0, got b1={b1}, b2={b2}, eps={eps}")
    return optax.scale_by_adam(b1, b2, eps)


def adamw(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on all parameters (Loshchilov & Hutter 2019): lr·weight_decay·p per update."""
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    return optax.chain(adam(b1, b2, eps), optax.add_decayed_weights(weight_decay))


def constant(steps: int, learning_rate: float, warmup: int = 0) -> optax.Schedule:
    """A linear warm-up from 0 over ``warmup`` updates, then ``learning_rate``; ``steps`` is the length of the run."""
    return _after_warmup(steps, learning_rate, warmup, optax.constant_schedule(learning_rate))


def cosine(steps: int, learning_rate: float, warmup: int = 0, final: float = 0.0) -> optax.Schedule:
    """A linear warm-up from 0 over ``warmup`` updates, then half a cosine to ``final·learning_rate`` at ``steps``."""
    if not 0 <= final <= 1:
        raise ValueError(f"final is a fraction of the learning rate in [0, 1], got {final}")
    decay = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), alpha=final)
    return _after_warmup(steps, learning_rate, warmup, decay)


def _after_warmup(steps: int, learning_rate: float, warmup: int, schedule: optax.Schedule) -> optax.Schedule:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must be in [0, steps), got {warmup} of {steps} steps")
    if warmup == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), schedule], [warmup])


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "adamw": adamw}
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {"constant": constant, "cosine": cosine}
