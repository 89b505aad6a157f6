"""Inpainting against the conditional distribution of a Gaussian, which is known; image-to-image against its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.editing import image_to_image, inpaint
from maskdiff_jax.diffusion.process import PROCESSES, coeffs
from maskdiff_jax.rng import per_image
from maskdiff_jax.samplers import SAMPLERS, SPACINGS, initial_noise, sample
from maskdiff_jax.types import Cond, Denoised
from tests.samplers import analytic

D = 8
MEAN = np.linspace(-0.3, 0.3, D)
COV = 0.25 * 0.9 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
K, U = [0, 1, 6], [2, 3, 4, 5, 7]
VALUES = np.array([0.8, 0.6, -0.5])
KNOWN = jnp.zeros((1, 1, D, 1)).at[0, 0, jnp.array(K), 0].set(VALUES)
MASK = jnp.zeros((1, 1, D, 1), bool).at[0, 0, jnp.array(K), 0].set(True)
FLOW = PROCESSES["linear_flow"]()
KEY = per_image(jax.random.key(0), 1)


def conditional(mean, cov):
    """Mean and covariance of the unknown elements given the known ones."""
    gain = cov[np.ix_(U, K)] @ np.linalg.inv(cov[np.ix_(K, K)])
    return mean[U] + gain @ (VALUES - mean[K]), cov[np.ix_(U, U)] - gain @ cov[np.ix_(K, U)]


def data(process):
    return analytic.correlated(process, jnp.float32(MEAN), COV)


def filled(x, iterations, mask=MASK, sampler="heun", steps=48):
    keys = per_image(jax.random.key(0), len(x))
    denoiser = inpaint(jnp.broadcast_to(KNOWN, x.shape), mask, iterations)(data(FLOW))
    times = SPACINGS["log_snr"]()(FLOW, steps)
    return sample(denoiser, SAMPLERS[sampler](FLOW), FLOW, times, x, Cond(), keys)


@pytest.mark.parametrize("name, iterations", [("ddim", 0), *((name, 1) for name in SAMPLERS)])
def test_known_pixels_are_kept(name, iterations):
    x = initial_noise(FLOW, per_image(jax.random.key(1), 4), (1, D, 1))
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, x.shape)
    out = filled(x, iterations, mask=mask, sampler=name, steps=6)
    np.testing.assert_array_equal(jnp.where(mask, out, 0), jnp.where(mask, KNOWN, 0))
    assert jnp.all(jnp.isfinite(out)) and jnp.all(jnp.where(mask, 1.0, jnp.abs(out)) > 0)


@pytest.mark.parametrize("name", PROCESSES)
def test_as_many_iterations_as_known_pixels_are_exact_on_a_gaussian(name):
    """The estimate is then E[x | x_t, known]."""
    process, t = PROCESSES[name](), jnp.float32(0.3 if name != "edm" else 0.005)
    c = coeffs(process, t)
    x = c.sigma * jax.random.normal(jax.random.key(0), (2, 1, D, 1)) + c.alpha * 0.2
    out = inpaint(jnp.broadcast_to(KNOWN, x.shape), MASK, len(K))(data(process))(x, t, Cond()).x
    alpha, sigma = float(c.alpha), float(c.sigma)
    gain = alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(D))
    for i in range(2):
        mean = MEAN + gain @ (np.float64(x[i]).ravel() - alpha * MEAN)
        expected, _ = conditional(mean, COV - alpha * gain @ COV)
        np.testing.assert_allclose(out[i].ravel()[jnp.array(U)], expected, atol=2e-4)


@pytest.fixture(scope="module")
def fills():
    """Mean and covariance of the fill by iterations, exact: with Heun it is affine in the starting noise."""
    x = FLOW.sigma(jnp.float32(FLOW.t_max)) * jnp.concatenate([jnp.zeros((1, D)), jnp.eye(D)]).reshape(-1, 1, D, 1)
    out = {i: np.float64(jax.jit(filled, static_argnums=1)(x, i)).reshape(-1, D)[:, U] for i in (0, 1, len(K))}
    return {i: (y[0], (y[1:] - y[0]).T @ (y[1:] - y[0])) for i, y in out.items()}


def test_the_whole_fill_has_the_conditional_distribution_of_a_gaussian(fills):
    mean, cov = conditional(MEAN, COV)
    np.testing.assert_allclose(fills[3][0], mean, atol=0.02)
    np.testing.assert_allclose(fills[3][1], cov, atol=0.01)


def test_the_bias_of_fewer_iterations(fills):
    """What they achieve here: the way from the mean to the conditional mean, and the spread, 1 being right."""
    mean, cov = conditional(MEAN, COV)
    way = {i: (m - MEAN[U]) @ (mean - MEAN[U]) / np.sum((mean - MEAN[U]) ** 2) for i, (m, _) in fills.items()}
    spread = {i: np.sqrt(np.trace(c) / np.trace(cov)) for i, (_, c) in fills.items()}
    np.testing.assert_allclose([way[i] for i in (0, 1, 3)], [0.44, 0.92, 1.0], atol=0.02)
    np.testing.assert_allclose([spread[i] for i in (0, 1, 3)], [1.70, 0.94, 1.0], atol=0.02)


def test_an_image_is_filled_by_itself():
    """Each has its own conjugate gradients: one that starts at its solution (and stops) does not stop another."""
    x = jax.random.normal(jax.random.key(0), (3, 1, D, 1))
    t, denoiser = jnp.float32(0.5), data(FLOW)
    known = jnp.broadcast_to(KNOWN, x.shape).at[1].set(denoiser(x, t, Cond()).x[1])
    whole = inpaint(known, MASK, 4)(denoiser)(x, t, Cond()).x
    alone = inpaint(known[2:], MASK, 4)(denoiser)(x[2:], t, Cond()).x
    np.testing.assert_allclose(whole[2:], alone, atol=1e-5)
    np.testing.assert_allclose(whole[1], known[1], atol=1e-5)


def test_a_negative_curvature_leaves_the_estimate():
    x = jax.random.normal(jax.random.key(0), (2, 1, D, 1))
    backwards = lambda x, t, cond: Denoised(-x, x)  # noqa: E731
    known = jnp.broadcast_to(KNOWN, x.shape)
    out = inpaint(known, MASK, 3)(backwards)(x, jnp.float32(0.5), Cond())
    np.testing.assert_array_equal(out.x, jnp.where(MASK, known, -x))
    np.testing.assert_array_equal(out.variance, x)


@pytest.mark.parametrize("strength, first", [(1.0, 0), (0.75, 2), (0.7, 3), (0.125, 7)])
def test_image_to_image_starts_on_the_forward_process(strength, first):
    process = PROCESSES["ddpm_linear"]()
    times, keys = SPACINGS["uniform"]()(process, 8), per_image(jax.random.key(0), 2048)
    start, left = image_to_image(process, times, jnp.full((2048, 1, 2, 1), 0.5), strength, keys)
    np.testing.assert_array_equal(left, times[first:])
    c = coeffs(process, left[0])
    np.testing.assert_allclose(start.mean(), 0.5 * c.alpha, atol=4 * float(c.sigma) / 64)
    np.testing.assert_allclose(start.std(), c.sigma, rtol=4 / np.sqrt(2 * 4096))


def test_image_to_image_changes_more_with_strength():
    keys, times = per_image(jax.random.key(0), 16), SPACINGS["uniform"]()(FLOW, 20)
    x = jnp.full((16, 1, D, 1), 0.4)

    def change(strength):
        start, left = image_to_image(FLOW, times, x, strength, keys)
        return float(jnp.abs(sample(data(FLOW), SAMPLERS["ddim"](FLOW), FLOW, left, start, Cond(), keys) - x).mean())

    assert change(0.1) < change(0.8) / 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inpaint(KNOWN, MASK, -1), "inpaint: iterations"),
        (lambda: image_to_image(FLOW, SPACINGS["uniform"]()(FLOW, 4), KNOWN, 0.0, KEY), "strength must be in"),
        (lambda: image_to_image(FLOW, SPACINGS["uniform"]()(FLOW, 4), KNOWN, 0.1, KEY), "below all times but 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
