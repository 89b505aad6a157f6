"""The variances of ancestral sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.posterior import posterior
from maskdiff_jax.diffusion.process import coeffs, ddpm_cosine, linear_flow
from maskdiff_jax.rng import normal, per_image
from maskdiff_jax.samplers import ancestral
from maskdiff_jax.types import Cond, Denoised
from tests.samplers import analytic

PROCESS = ddpm_cosine(steps=50)
MEAN, STD = 0.2, 0.5
KEYS = per_image(jax.random.key(0), 3)
X = jax.random.normal(jax.random.key(1), (3, 2, 2, 1))
STEPS = [(1.0, 0.8), (0.5, 0.48), (0.1, 0.02)]  # table steps, and steps of a respaced table


def with_variance(v):
    """The exact denoiser of N(MEAN, STD²) with the variance coefficient ``v``."""
    denoiser = analytic.gaussian(PROCESS, MEAN, STD)
    return lambda x, t, cond: Denoised(denoiser(x, t, cond).x, None if v is None else jnp.full(x.shape, v))


def step(variance, v, t, s, keys=KEYS):
    return ancestral(PROCESS, variance).step(with_variance(v), (), X, jnp.float32(t), jnp.float32(s), Cond(), keys)[0]


@pytest.mark.parametrize("t, s", STEPS)
@pytest.mark.parametrize("v, fixed", [(0.0, "small"), (1.0, "large")])
def test_the_ends_of_learned_are_the_fixed_variances_to_the_bit(v, fixed, t, s):
    np.testing.assert_array_equal(step("learned", v, t, s), step(fixed, None, t, s))


@pytest.mark.parametrize("t, s", STEPS)
def test_the_exact_variance_carries_marginal_to_marginal_in_one_step(t, s):
    """Between the two fixed ones, of which one loses spread in the same step and the other gains some."""
    now, then, q = coeffs(PROCESS, t), coeffs(PROCESS, s), posterior(PROCESS, t, s)
    total, goal = (c.alpha**2 * STD**2 + c.sigma**2 for c in (now, then))
    exact = jnp.log(jnp.exp(q.log_small) + q.from_x**2 * STD**2 * now.sigma**2 / total)
    v = (exact - q.log_small) / (q.log_large - q.log_small)
    assert 0 < v < 1
    gain = q.from_x * now.alpha * STD**2 / total + q.from_x_t
    other = per_image(jax.random.key(2), 3)
    z = normal(KEYS, X.shape[1:]) - normal(other, X.shape[1:])
    spread = {}
    for variance in ("small", "learned", "large"):
        noise = (step(variance, v, t, s) - step(variance, v, t, s, other)) / z
        spread[variance] = float(gain**2 * total + jnp.median(noise) ** 2)
    assert spread["learned"] == pytest.approx(float(goal), rel=1e-3)
    assert spread["small"] < spread["learned"] < spread["large"]


def test_errors():
    with pytest.raises(ValueError, match="ancestral: variance='tiny': choose from small, large, learned"):
        ancestral(PROCESS, "tiny")
    with pytest.raises(ValueError, match="ancestral: variance='learned' needs a process with a table"):
        ancestral(linear_flow(), "learned")
    with pytest.raises(ValueError, match="a model with learned_variance=True"):
        step("learned", None, 0.5, 0.48)
