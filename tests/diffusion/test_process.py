"""The contract of every process: endpoints, monotone SNR, its inverse, exact derivatives, its own normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import PROCESSES, coeffs, log_snr, shift

MEMBERS = [pytest.param(name, scale, id=f"{name}-shift{scale:g}") for name in PROCESSES for scale in (1.0, 2.0)]


def interior(process, n=401):
    return jnp.linspace(process.t_min, process.t_max, n)


def make(name, scale):
    process = PROCESSES[name]()
    return process if scale == 1 else shift(process, scale)


@pytest.mark.parametrize("name, scale", MEMBERS)
def test_starts_at_the_data_and_ends_in_noise(name, scale):
    process = make(name, scale)
    start, end = coeffs(process, 0.0), coeffs(process, process.t_max)
    assert start.alpha == 1 and start.sigma == 0
    assert end.sigma / end.alpha > 70
    assert 0 < process.t_min < process.t_max <= 1


@pytest.mark.parametrize("name, scale", MEMBERS)
def test_log_snr_falls_and_its_inverse_inverts_it(name, scale):
    process = make(name, scale)
    t = interior(process)
    lam = log_snr(coeffs(process, t))
    assert np.all(np.diff(lam) < 0)
    np.testing.assert_allclose(process.t_of_log_snr(lam), t, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name, scale", MEMBERS)
def test_derivatives_match_finite_differences(name, scale):
    process = make(name, scale)
    t = interior(process, 38)[1:-1] + 1e-4  # off the nodes of a table, where the derivative jumps
    with jax.enable_x64(True):
        process = make(name, scale)
        h = 1e-6
        wide = jnp.asarray(np.asarray(t), jnp.float64)
        for value, slope in ((process.alpha, "dalpha"), (process.sigma, "dsigma")):
            finite = (value(wide + h) - value(wide - h)) / (2 * h)
            scale_of = float(jnp.abs(finite).max()) + 1e-6
            np.testing.assert_allclose(getattr(coeffs(process, t), slope), finite, rtol=2e-3, atol=2e-4 * scale_of)


@pytest.mark.parametrize("name", PROCESSES)
def test_shift_moves_log_snr_and_keeps_the_normalisation(name):
    process, scale = PROCESSES[name](), 2.5
    t = interior(process)
    before, after = coeffs(process, t), coeffs(shift(process, scale), t)
    np.testing.assert_allclose(log_snr(after), log_snr(before) - 2 * np.log(scale), atol=2e-4)
    np.testing.assert_allclose(process.norm(before.alpha, before.sigma), 1, atol=1e-6)
    np.testing.assert_allclose(process.norm(after.alpha, after.sigma), 1, atol=1e-6)


def test_shift_has_the_published_closed_forms():
    t, s = jnp.linspace(0.01, 0.99, 50), 3.0
    flow = coeffs(shift(PROCESSES["linear_flow"](), s), t)
    np.testing.assert_allclose(flow.sigma, s * t / (1 + (s - 1) * t), rtol=1e-6)
    before, after = (jnp.square(coeffs(p, t).alpha) for p in (PROCESSES["cosine"](), shift(PROCESSES["cosine"](), s)))
    np.testing.assert_allclose(after, before / (before + s**2 * (1 - before)), rtol=1e-5)


def test_ddpm_tables_are_the_products_of_one_minus_beta():
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    cosine = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    t = (np.arange(1000) + 1) / 1000
    for name, abar in (("ddpm_linear", linear), ("ddpm_cosine", cosine)):
        process = PROCESSES[name]()
        assert process.steps == 1000
        np.testing.assert_allclose(np.square(coeffs(process, t).alpha), abar, rtol=2e-3)
        np.testing.assert_allclose(np.square(coeffs(process, t).sigma), 1 - abar, rtol=1e-3)


def test_edm_runs_from_its_sigma_min_to_its_sigma_max():
    process = PROCESSES["edm"]()
    np.testing.assert_allclose(coeffs(process, jnp.array([process.t_min, process.t_max])).sigma, [0.002, 80], rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: PROCESSES["cosine"](log_snr_limit=0),
        lambda: PROCESSES["edm"](sigma_min=1.0, sigma_max=0.5),
        lambda: PROCESSES["ddpm_linear"](beta_max=1.0),
        lambda: PROCESSES["ddpm_cosine"](steps=0),
        lambda: shift(PROCESSES["cosine"](), -1.0),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()
