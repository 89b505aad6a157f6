"""What UniPC owes beyond the contract of all samplers: its coefficients, its history, its cost and its order 4."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import PROCESSES, coeffs, log_snr
from maskdiff_jax.rng import per_image
from maskdiff_jax.samplers import SPACINGS, initial_noise, sample
from maskdiff_jax.samplers.unipc import unipc
from maskdiff_jax.types import Cond, Denoised
from tests.samplers import analytic

MEAN, STD = 0.3, 0.7


def start(process, n=3):
    keys = per_image(jax.random.key(0), n)
    return initial_noise(process, keys, (1, 1, 2)), keys


def update(x, now, then, h, r, values, scale):
    """The paper's x_t = sigma_t/sigma_s x - alpha_t (exp(-h) - 1) x̂ + alpha_t Σ w_m D_m, in float64 by a linear solve.

    Σ_m w_m r_m^k = h ∫ exp(-h(1 - u)) u^k du for k = 1..; with one difference alone w = scale/(2 r).
    """
    base, differences = values[0], [v - values[0] for v in values[1:]]
    moment, moments = -np.expm1(-h), []
    for k in range(1, len(values)):
        moment = 1 - k / h * moment
        moments.append(moment)
    if len(r) == 1:
        weights = [scale / (2 * r[0])]
    else:
        weights = np.linalg.solve([[rm ** (k + 1) for rm in r] for k in range(len(r))], moments) if r else []
    rise = -np.expm1(-h) * base + sum((w * d for w, d in zip(weights, differences, strict=True)), np.zeros_like(base))
    return then.sigma / now.sigma * x + then.alpha * rise


def written_out(denoiser, process, times, x, p, variant):
    """Algorithms 5 to 8 of the paper for the first len(times) - 1 steps, one evaluation each."""
    c = [coeffs(process, t) for t in times]
    c = [type(k)(*(np.float64(v) for v in k)) for k in c]
    lam = [float(log_snr(k)) / 2 for k in c]
    b = {"bh1": lambda h: h, "bh2": lambda h: -np.expm1(-h)}[variant]
    x, seen, corrected = np.float64(x), [], None
    for i in range(len(times) - 1):
        seen.append(np.float64(denoiser(jnp.float32(x), times[i], Cond()).x))
        if i:
            h, q = lam[i] - lam[i - 1], min(i, p)
            old = range(i - 2, i - 1 - q, -1)
            r = [*((lam[j] - lam[i - 1]) / h for j in old), 1.0]
            values = [seen[i - 1], *(seen[j] for j in old), seen[i]]
            x = update(corrected, c[i - 1], c[i], h, r, values, b(h))
        corrected, h, q = x, lam[i + 1] - lam[i], min(i + 1, p)
        old = range(i - 1, i - q, -1)
        r = [(lam[j] - lam[i]) / h for j in old]
        x = update(x, c[i], c[i + 1], h, r, [seen[i], *(seen[j] for j in old)], b(h))
    return x


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_is_the_algorithm_of_the_paper(order, variant):
    process = PROCESSES["cosine"](log_snr_limit=8.0)
    times = SPACINGS["karras"](rho=3.0)(process, 8)[:-1]  # uneven in lambda
    denoiser = analytic.mixture(process, jnp.array([0.3, 0.7]), jnp.array([[-0.8, 0.4], [0.5, -0.2]]), 0.4)
    sampler, (x, keys) = unipc(process, order, variant), start(process)
    step = jax.jit(lambda y, state, t, s: sampler.step(denoiser, state, y, t, s, Cond(), keys))
    y, state = x, sampler.init(x)
    for t, s in pairwise(times):
        y, state = step(y, state, t, s)
    np.testing.assert_allclose(y, written_out(denoiser, process, times, x, order - 1, variant), atol=2e-5)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_one_evaluation_a_step(order):
    process, times = PROCESSES["linear_flow"](), []

    def denoiser(x, t, cond):
        times.append(t)
        return Denoised(x)

    (x, keys), sampler, t = start(process), unipc(process, order), jnp.float32(0.5)
    jax.eval_shape(lambda t: sampler.step(denoiser, sampler.init(x), x, t, t / 2, Cond(), keys), t)
    assert len(times) == 1


def test_order_4():
    """At t_min, on a short range, where float32 leaves room for it."""
    process = PROCESSES["cosine"](log_snr_limit=4.0)
    denoiser, (x, keys) = analytic.gaussian(process, MEAN, STD), start(process)
    first, last = (coeffs(process, t) for t in (process.t_max, process.t_min))
    spread = [jnp.hypot(c.alpha * STD, c.sigma) for c in (first, last)]
    arrived = last.alpha * MEAN + (x - first.alpha * MEAN) * spread[1] / spread[0]

    def error(n):
        times = SPACINGS["log_snr"]()(process, n)
        out = sample(denoiser, unipc(process, 4), process, times, x, Cond(), keys)
        return float(jnp.abs(out - denoiser(arrived, times[-2], Cond()).x).max())

    coarse, fine = error(24), error(48)
    assert 1e-6 < fine < 1e-4
    assert abs(np.log2(coarse / fine) - 4) < 0.3
