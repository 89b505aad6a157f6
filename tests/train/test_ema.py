"""Averages of the parameters: closed forms, and where in the optimizer's state they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskdiff_jax.train.ema import applied_updates, get_ema, params_ema

START = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}


def run(decays, warmup, updates, start=START):
    """The EMA state after ``updates``, and the parameters that they lead to."""
    link = params_ema(decays, warmup)
    state, params = link.init(start), start
    for update in updates:
        passed, state = link.update(update, state, params)
        jax.tree.map(np.testing.assert_array_equal, passed, update)
        params = optax.apply_updates(params, passed)
    return state, params


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_constant_steps_have_a_closed_form(decay):
    """p_n = p_0 + n·u gives e_n = p_n - u·d(1 - d^n)/(1 - d): the average trails by the mean age of its terms."""
    n, step = 20, jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), START)
    state, params = run((decay,), False, [step] * n)
    trail = 0.1 * decay * (1 - decay**n) / (1 - decay)
    expected = jax.tree.map(lambda p: p - trail, params)
    jax.tree.map(lambda e, w: np.testing.assert_allclose(e, w, rtol=1e-5), get_ema(state, decay), expected)


def test_warmup_follows_its_definition_and_forgets_the_start():
    decay, rng = 0.9, np.random.default_rng(0)
    steps = [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), START) for _ in range(100)]
    state, _ = run((decay,), True, steps)
    p = e = np.array([1.0, -2.0])
    for n, step in enumerate(steps):
        p = p + np.asarray(step["w"], np.float64)
        d = min(decay, (1 + n) / (10 + n))
        e = d * e + (1 - d) * p
    assert decay < (1 + 99) / (10 + 99)  # both branches of the minimum were taken
    np.testing.assert_allclose(get_ema(state, decay)["w"], e, rtol=1e-5)
    assert applied_updates(state) == 100


def test_slow_decay_keeps_its_rate_in_float32():
    state, _ = run((0.9999,), False, [{"w": jnp.array(1.0)}], {"w": jnp.array(0.0)})
    np.testing.assert_allclose(get_ema(state, 0.9999)["w"], 1e-4, rtol=1e-6)


def test_several_averages_do_not_mix():
    steps = [jax.tree.map(jnp.ones_like, START)] * 3
    both, _ = run((0.5, 0.9), False, steps)
    for decay in (0.5, 0.9):
        alone, _ = run((decay,), False, steps)
        jax.tree.map(np.testing.assert_array_equal, get_ema(both, decay), get_ema(alone, decay))


def test_average_of_low_precision_parameters_is_float32():
    state, _ = run((0.9,), True, [{"w": jnp.ones(2, jnp.bfloat16)}], {"w": jnp.zeros(2, jnp.bfloat16)})
    assert get_ema(state, 0.9)["w"].dtype == jnp.float32


def test_is_found_inside_other_transformations():
    chain = optax.apply_if_finite(optax.chain(optax.adam(1.0), params_ema((0.9,))), 5)
    jax.tree.map(np.testing.assert_array_equal, get_ema(chain.init(START), 0.9), START)
    assert applied_updates(chain.init(START)) == 0


def test_starts_from_its_own_copy():
    """So that parameters and averages can be donated together."""
    state = params_ema((0.5, 0.9)).init(START)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((START, state.ema))]
    assert len(set(buffers)) == len(buffers)


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match=r"no average .* 0\.5; there are \['0\.9'\]"):
        get_ema(params_ema((0.9,)).init(START), 0.5)
    with pytest.raises(ValueError, match="keeps no average"):
        get_ema(optax.adam(1.0).init(START), 0.9)
    with pytest.raises(ValueError, match="needs the parameters"):
        params_ema((0.9,)).update(START, params_ema((0.9,)).init(START))
    for decays in [(1.0,), (-0.1,), (0.9, 0.9), (float("nan"),)]:
        with pytest.raises(ValueError, match="distinct and in"):
            params_ema(decays)
