"""Six predictions, one converter: every space round-trips on every process, and errors scale by the determinants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.prediction import PREDICTIONS, det, prediction, target, to_eps, to_x
from maskdiff_jax.diffusion.process import PROCESSES, coeffs

PAIRS = [pytest.param(p, s, id=f"{p}-{s}") for p in PROCESSES for s in PREDICTIONS]


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 9, 3, 3, 1))


@pytest.mark.parametrize("process, space", PAIRS)
def test_x_and_eps_come_back_from_every_prediction(process, space, images):
    process, space = PROCESSES[process](), PREDICTIONS[space]()
    x, eps = images
    c = coeffs(process, jnp.linspace(process.t_min, process.t_max, 11)[1:-1])  # both directions are well conditioned
    x_t = c.alpha[:, None, None, None] * x + c.sigma[:, None, None, None] * eps
    out = target(space, c, x, eps)
    for found, true, gain in (
        (to_x(space, c, x_t, out), x, c.sigma / c.alpha),
        (to_eps(space, c, x_t, out), eps, 1 / c.sigma),
    ):
        tolerance = 2e-5 * (1 + jnp.maximum(gain, 1 / gain))[:, None, None, None]
        assert np.all(np.abs(found - true) < tolerance)


@pytest.mark.parametrize("process, space", PAIRS)
def test_an_output_error_reaches_x_as_sigma_over_det(process, space, images):
    process, space = PROCESSES[process](), PREDICTIONS[space]()
    x, eps = images
    c = coeffs(process, jnp.full(9, process.t_of_log_snr(jnp.float32(0.5))))
    x_t, out = c.alpha[0] * x + c.sigma[0] * eps, target(space, c, x, eps)
    moved = to_x(space, c, x_t, out + 0.1) - to_x(space, c, x_t, out)
    np.testing.assert_allclose(
        moved, jnp.broadcast_to(-0.1 * (c.sigma / det(space, c))[:, None, None, None], x.shape), rtol=1e-3
    )


def test_edm_is_the_papers_preconditioning_on_its_own_process(images):
    process, sd = PROCESSES["edm"](), 0.5
    sigma = jnp.array([0.01, 0.1, 0.5, 1, 2, 5, 10, 40, 80.0])
    c = coeffs(process, sigma / 80)
    x, eps = images
    s = sigma[:, None, None, None]
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / jnp.sqrt(s**2 + sd**2)
    wanted = (x - c_skip * (x + s * eps)) / c_out
    np.testing.assert_allclose(target(prediction("edm"), c, x, eps), wanted, rtol=1e-3, atol=1e-3)


def test_edm_is_finite_without_noise(images):
    c = coeffs(PROCESSES["edm"](), jnp.zeros(9))
    assert np.all(np.isfinite(target(prediction("edm"), c, *images)))
    np.testing.assert_allclose(det(prediction("edm"), c), -1, rtol=1e-6)


def test_an_unknown_space_lists_the_choices():
    with pytest.raises(ValueError, match="unknown prediction 'noise': choose from x, eps, v"):
        prediction("noise")
