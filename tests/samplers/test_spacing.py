"""Every spacing runs from t_max to 0 without calling the denoiser below t_min; each has its own closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import PROCESSES, coeffs, log_snr
from maskdiff_jax.samplers import SPACINGS

CASES = [(s, p) for s in SPACINGS for p in PROCESSES if s != "respaced" or PROCESSES[p]().steps]


@pytest.mark.parametrize("spacing, name", CASES)
@pytest.mark.parametrize("n", [1, 2, 100])
def test_contract(spacing, name, n):
    process = PROCESSES[name]()
    t = SPACINGS[spacing]()(process, n)
    assert t.shape == (n + 1,) and t.dtype == jnp.float32
    assert t[0] == np.float32(process.t_max) and t[-1] == 0
    assert t[-2] >= np.float32(process.t_min)
    assert jnp.all(jnp.diff(t) < 0)


@pytest.mark.parametrize("spacing, name", CASES)
def test_concrete_and_the_same_inside_jit(spacing, name):
    process, seen = PROCESSES[name](), []

    @jax.jit
    def traced():
        t = SPACINGS[spacing]()(process, 9)
        seen.append(np.asarray(t))  # fails on a tracer
        return t

    np.testing.assert_array_equal(traced(), seen[0])
    np.testing.assert_array_equal(SPACINGS[spacing]()(process, 9), seen[0])


@pytest.mark.parametrize("spacing, name", CASES)
@pytest.mark.parametrize("n", [0, -1])
def test_needs_a_step(spacing, name, n):
    with pytest.raises(ValueError, match=f"{spacing}: .*n >= 1"):
        SPACINGS[spacing]()(PROCESSES[name](), n)


@pytest.mark.parametrize("name", PROCESSES)
def test_log_snr_is_uniform_in_log_snr(name):
    process = PROCESSES[name]()
    lam = np.asarray(log_snr(coeffs(process, SPACINGS["log_snr"]()(process, 9)[:-1])))
    np.testing.assert_allclose(np.diff(lam), (lam[-1] - lam[0]) / 8, rtol=2e-3)


def test_karras_is_equation_5_of_edm():
    rho, n, low, high = 5.0, 18, 0.002, 80.0
    i = np.arange(n)
    sigma = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    np.testing.assert_allclose(80 * SPACINGS["karras"](rho=rho)(PROCESSES["edm"](), n)[:-1], sigma, rtol=1e-4)


def test_karras_of_large_rho_is_log_snr():
    process = PROCESSES["linear_flow"]()
    np.testing.assert_allclose(SPACINGS["karras"](rho=1e4)(process, 8), SPACINGS["log_snr"]()(process, 8), atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_uniform_refuses_steps_below_t_min(name):
    process = PROCESSES[name]()
    most = int(process.t_max / process.t_min * (1 + 1e-6))
    t = SPACINGS["uniform"]()(process, most)
    np.testing.assert_allclose(np.diff(t), -process.t_max / most, atol=1e-6)
    with pytest.raises(ValueError, match=f"uniform: n={most + 1} .* at most {most}"):
        SPACINGS["uniform"]()(process, most + 1)


def test_uniform_and_respaced_stay_on_the_table():
    process = PROCESSES["ddpm_linear"]()
    np.testing.assert_allclose(SPACINGS["uniform"]()(process, 4) * 1000, [1000, 750, 500, 250, 0], rtol=1e-6)
    np.testing.assert_allclose(SPACINGS["respaced"]()(process, 4) * 1000, [1000, 667, 334, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(SPACINGS["respaced"]()(process, 1000), np.arange(1000, -1, -1) / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SPACINGS["karras"](rho=0.0), "karras: rho"),
        (lambda: SPACINGS["karras"](rho=float("inf")), "karras: rho"),
        (lambda: SPACINGS["respaced"]()(PROCESSES["cosine"](), 10), "no table"),
        (lambda: SPACINGS["respaced"]()(PROCESSES["ddpm_linear"](), 1001), "n=1001 is too many"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
