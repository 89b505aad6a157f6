"""Schedules at their corners, and update rules against optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.optim import (
    OPTIMIZERS,
    SCHEDULES,
    adam,
    adamw,
    clip_by_global_norm,
    constant,
    cosine,
    make_optimizer,
)

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
GRADS = {"w": jnp.array([[0.3, -0.1], [2.0, -4.0]]), "b": jnp.array([1.0, -1.0])}


def follow(optimizer, grads, params=PARAMS):
    apply, state = jax.jit(optimizer.apply), optimizer.init(params)
    for grad in grads:
        params, state = apply(grad, state, params)
    return params, state


def follow_optax(chain, grads, params=PARAMS):
    state = chain.init(params)
    for grad in grads:
        updates, state = chain.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def equal(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 0, **tolerance}), a, b)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_is_linear_from_zero_to_the_peak(name):
    schedule = SCHEDULES[name](100, 0.2, warmup=10)
    np.testing.assert_allclose([schedule(n) for n in (0, 3, 5, 10)], [0, 0.06, 0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(SCHEDULES[name](100, 0.2)(0), 0.2, rtol=1e-6)  # without warm-up


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_name_what_is_wrong(name):
    for steps, rate, warmup, words in [(10, 0.0, 0, "learning_rate"), (10, 0.1, 10, "warmup"), (10, 0.1, -1, "warmup")]:
        with pytest.raises(ValueError, match=words):
            SCHEDULES[name](steps, rate, warmup=warmup)


def test_constant_stays_and_cosine_falls():
    assert constant(100, 0.2, 10)(100) == pytest.approx(0.2)
    for warmup in (0, 10):
        schedule = cosine(110, 0.2, warmup, final=0.1)
        half = (110 + warmup) // 2
        np.testing.assert_allclose([schedule(half), schedule(110), schedule(500)], [0.11, 0.02, 0.02], rtol=1e-5)
    with pytest.raises(ValueError, match="final"):
        cosine(100, 0.2, final=1.5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_first_step_of_unit_gradient_moves_by_the_learning_rate(name):
    """Bias correction: at the first step Adam's direction is sign(g), whatever b1 and b2 are."""
    rule = OPTIMIZERS[name](b1=0.8, b2=0.95)
    updates, _ = rule.update(GRADS, rule.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS))
    equal(updates, jax.tree.map(jnp.sign, GRADS), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rules_name_what_is_wrong(name):
    for wrong in ({"b1": 1.0}, {"b2": -0.1}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OPTIMIZERS[name](**wrong)


def test_chain_is_clip_then_adamw():
    schedule, rates = cosine(10, 0.1, 2), dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1)
    ours, _ = follow(make_optimizer(adamw(**rates), schedule, clip=0.5), [GRADS] * 4)
    peer = follow_optax(optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(schedule, **rates)), [GRADS] * 4)
    equal(ours, peer, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 4.0, 100.0])
def test_clipping_agrees_with_optax(limit):
    """Below, near and above the gradient's norm of 4.7; and a gradient of 0 stays one."""
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    for grads in (GRADS, zeros):
        ours, _ = clip_by_global_norm(limit).update(grads, optax.EmptyState())
        peer, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
        equal(ours, peer, rtol=1e-6)


def test_weight_decay_is_decoupled_and_reaches_every_parameter():
    """With a zero gradient one update multiplies each parameter by 1 - lr·weight_decay."""
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    params, _ = follow(make_optimizer(adamw(weight_decay=0.5), constant(10, 0.1)), [zeros])
    equal(params, jax.tree.map(lambda p: 0.95 * p, PARAMS), rtol=1e-6)
    with pytest.raises(ValueError, match="weight_decay"):
        adamw(weight_decay=-1.0)


def test_average_follows_the_parameters():
    params, state = follow(make_optimizer(adam(), constant(10, 0.1), ema=(0.0, 0.9), ema_warmup=False), [GRADS] * 3)
    equal(get_ema(state, 0.0), params, rtol=1e-6)  # a decay of 0 has no memory
    assert np.abs(get_ema(state, 0.9)["w"] - params["w"]).min() > 1e-3


def test_clip_must_be_positive():
    with pytest.raises(ValueError, match="clip must be positive"):
        make_optimizer(adam(), constant(10, 0.1), clip=0.0)
