"""Optimizers: update rules and learning-rate schedules by name, and the chain that a training run uses."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from maskdiff_jax.train.ema import params_ema


class Optimizer(NamedTuple):
    """An optax transformation (``init``, ``update``) and its ``learning_rate(applied updates)``, for logs."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    learning_rate: optax.Schedule


def make_optimizer(
    rule: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    clip: float | None = None,
    ema: tuple[float, ...] = (0.9999,),
    ema_warmup: bool = True,
) -> Optimizer:
    """Clip by the global norm, apply ``rule`` at the scheduled rate, average the parameters.

    rule: update direction of unit learning rate, a value of `OPTIMIZERS`; schedule: a value of `SCHEDULES`.
    clip: largest global norm of the gradient, None for no clipping. ema, ema_warmup: see `params_ema`.
    A gradient with an inf or a NaN is skipped, however many come in a row: parameters, moments, averages and the
    schedule's count stay as they are; the state counts the skips (``notfinite_count`` in a row, ``total_notfinite``).
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, or None for no clipping, got {clip}")
    links = [rule, optax.scale_by_learning_rate(schedule), params_ema(ema, ema_warmup)]
    if clip is not None:
        links.insert(0, optax.clip_by_global_norm(clip))
    # optax applies a non-finite update once its counter exceeds the limit; the counter saturates at int32's maximum
    guarded = optax.apply_if_finite(optax.chain(*links), max_consecutive_errors=jnp.iinfo(jnp.int32).max)
    return Optimizer(guarded.init, guarded.update, schedule)


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
