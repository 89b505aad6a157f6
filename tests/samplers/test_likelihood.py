"""The likelihood of Gaussian data against its closed form, on every continuous process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import PROCESSES
from maskdiff_jax.rng import per_image
from maskdiff_jax.samplers.likelihood import bits_per_dim, dequantise, log_likelihood
from maskdiff_jax.types import Cond
from tests.samplers import analytic

D = 3
MEAN = np.array([0.3, -0.2, 0.1])
COV = 0.49 * 0.6 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
X = jnp.float32(MEAN + np.array([[0.0, 0.0, 0.0], [0.7, 0.7, 0.0], [-0.7, 0.2, 1.4]])).reshape(3, 1, D, 1)


def closed_form(x):
    away = np.float64(x).reshape(-1, D) - MEAN
    distance = np.einsum("bi,ij,bj->b", away, np.linalg.inv(COV), away)
    return -(distance + np.linalg.slogdet(2 * np.pi * COV)[1]) / 2


def estimate(name, x=X, seed=0, **options):
    process, keys = PROCESSES[name](), per_image(jax.random.key(seed), len(x))
    denoiser = analytic.correlated(process, jnp.float32(MEAN), COV)
    return jax.jit(lambda x: log_likelihood(denoiser, process, x, Cond(), keys, **options))(x)


@pytest.mark.parametrize("name", ["cosine", "linear_flow", "edm"])
def test_within_one_percent_on_a_gaussian(name):
    expected = closed_form(X)
    assert abs(expected).min() > 1
    np.testing.assert_allclose(estimate(name, steps=100, exact=True), expected, rtol=0.01)


def test_heun_has_order_2():
    coarse, fine = (abs(estimate("linear_flow", steps=n, exact=True) - closed_form(X)).max() for n in (48, 96))
    assert 3e-4 < fine < 0.1
    assert abs(np.log2(coarse / fine) - 2) < 0.25


def test_hutchinson_is_unbiased():
    """On a Gaussian the path does not depend on the probe, so all of the spread is that of the trace."""
    many = np.asarray(estimate("edm", jnp.tile(X[1:2], (1024, 1, 1, 1)), seed=1, steps=24))
    exact = np.asarray(estimate("edm", X[1:2], steps=24, exact=True))
    assert many.std() > 0.05
    assert abs(many.mean() - exact[0]) < 4 * many.std() / 32


def test_the_uniform_density_on_256_levels_has_8_bits():
    width = 2 * 256 / 255
    np.testing.assert_allclose(bits_per_dim(jnp.full(2, -D * np.log(width)), D), 8, rtol=1e-6)


def test_dequantised_pixels_stay_in_their_bin():
    levels = jnp.broadcast_to(jnp.arange(256).reshape(1, 256, 1, 1) / 127.5 - 1, (4, 256, 3, 1))
    noisy = dequantise(per_image(jax.random.key(0), 4), levels)
    bins = np.asarray((noisy - levels) * 255)
    assert abs(bins).max() <= 1.001 and abs(bins.mean()) < 0.05
    np.testing.assert_allclose(bins.std(), 3**-0.5, rtol=0.05)


def test_needs_a_step():
    with pytest.raises(ValueError, match="needs steps >= 1, got 0"):
        estimate("edm", steps=0)
