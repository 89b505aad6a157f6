"""The guard: bad gradients leave no trace, its own statistics see no NaN, and a lasting change is accepted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.ema import applied_updates
from maskdiff_jax.train.guard import LEAST, MEMORY, get_guard
from maskdiff_jax.train.optim import adamw, constant, cosine, make_optimizer

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
GRADS = {"w": jnp.array([[0.3, -0.1], [2.0, -4.0]]), "b": jnp.array([1.0, -1.0])}
NORM = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(GRADS))))


def follow(optimizer, scales, poison=0.0):
    """The parameters and the state after gradients of these multiples of GRADS."""
    apply = jax.jit(optimizer.apply)
    params, state = PARAMS, optimizer.init(PARAMS)
    for scale in scales:
        grads = jax.tree.map(lambda g, s=scale: s * g, GRADS)
        params, state = apply(grads, state, params)
    return params, state


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_non_finite_gradients_leave_no_trace(poison):
    """Skipping is forever: unlike optax's default, no number of failures in a row lets a NaN through."""
    optimizer = make_optimizer(adamw(), cosine(10, 0.1, 2), clip=1.0, ema=(0.9,))
    bad = {**GRADS, "b": GRADS["b"].at[1].set(poison)}
    clean, clean_state = follow(optimizer, [1.0] * 3)
    apply, params, state = jax.jit(optimizer.apply), PARAMS, optimizer.init(PARAMS)
    for grads in (bad, GRADS, GRADS, *[bad] * 9, GRADS, bad, bad):
        params, state = apply(grads, state, params)
    equal(params, clean)
    equal(state.inner_state, clean_state.inner_state)  # moments, averages and both counts
    assert applied_updates(state) == 3
    assert (state.in_row, state.total, state.last_good) == (2, 12, False)
    assert (state.finite, state.norm) == (clean_state.finite, clean_state.norm)  # its statistics ignore them

    limit = jnp.iinfo(jnp.int32).max
    full = state._replace(in_row=jnp.array(limit, jnp.int32))
    same, after = apply(bad, full, params)
    equal(same, params)
    assert after.in_row == limit


def test_the_usual_norm_is_the_mean_of_those_seen():
    _, state = follow(make_optimizer(adamw(), constant(10, 0.1)), [1.0] * 7)
    np.testing.assert_allclose(state.norm / (1 - MEMORY**7), NORM, rtol=1e-6)


def test_a_spike_is_skipped_and_barely_moves_the_mean():
    optimizer = make_optimizer(adamw(), constant(100, 0.1), spike=5.0)
    calm, before = follow(optimizer, [1.0] * LEAST)
    params, state = follow(optimizer, [1.0] * LEAST + [1000.0])
    equal(params, calm)
    equal(state.inner_state, before.inner_state)
    assert (state.in_row, state.total) == (1, 1)
    mean = state.norm / (1 - MEMORY**21)
    assert NORM < mean < 1.3 * NORM  # with the spike itself it would be 50 times as much
    _, state = follow(optimizer, [1.0] * LEAST + [4.9, 1.0])
    assert state.total == 0


def test_without_a_bound_and_before_enough_were_seen_nothing_finite_is_skipped():
    for spike, scales in ((0.0, [1.0] * LEAST + [1e6]), (5.0, [1.0] * (LEAST - 1) + [1e6])):
        _, state = follow(make_optimizer(adamw(), constant(100, 0.1), spike=spike), scales)
        assert (state.total, state.last_good) == (0, True)


def test_a_lasting_change_of_scale_is_accepted():
    _, state = follow(make_optimizer(adamw(), constant(1000, 0.1), spike=3.0), [1.0] * 50 + [10.0] * 300)
    assert state.last_good and 0 < state.total < 150


@pytest.mark.parametrize("spike", [-1.0, 0.5, 1.0])
def test_a_bound_below_the_mean_is_refused(spike):
    with pytest.raises(ValueError, match="spike is a multiple of the mean gradient norm, more than 1, or 0"):
        make_optimizer(adamw(), constant(10, 0.1), spike=spike)


def test_a_state_without_guard_says_so():
    with pytest.raises(ValueError, match="no guard"):
        get_guard(())
