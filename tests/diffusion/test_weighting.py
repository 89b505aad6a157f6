"""One loss in every prediction space: the published table of equivalent weights, all from the one converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.prediction import PREDICTIONS, target, to_eps, to_x
from maskdiff_jax.diffusion.process import PROCESSES, coeffs
from maskdiff_jax.diffusion.times import TIMES
from maskdiff_jax.diffusion.weighting import WEIGHTINGS, clipped, in_space, normalised, snr

# Rows: weighting -> weight on (eps, x, v on VP, velocity on the linear flow) as functions of SNR r and of flow time t.
G, K = 0.7, 0.3
TABLE = {
    "debias": (
        WEIGHTINGS["debias"](),
        lambda r: r**-0.5,
        lambda r: r**0.5,
        lambda r: r**0.5 / (1 + r),
        lambda r, t: t * (1 - t),
    ),
    "constant on eps": (
        WEIGHTINGS["constant"](space="eps"),
        lambda r: 1 + 0 * r,
        lambda r: r,
        lambda r: r / (1 + r),
        lambda r, t: (1 - t) ** 2,
    ),
    "p2": (
        WEIGHTINGS["p2"](gamma=G, k=K),
        lambda r: (K + r) ** -G,
        lambda r: r * (K + r) ** -G,
        lambda r: r * (K + r) ** -G / (1 + r),
        lambda r, t: (1 - t) ** 2 * (K + r) ** -G,
    ),
    "min_snr": (
        WEIGHTINGS["min_snr"](gamma=5.0),
        lambda r: np.minimum(1, 5 / r),
        lambda r: np.minimum(r, 5),
        lambda r: np.minimum(r, 5) / (1 + r),
        lambda r, t: t**2 * np.minimum(r, 5),
    ),
    "constant on x": (
        WEIGHTINGS["constant"](space="x"),
        lambda r: 1 / r,
        lambda r: 1 + 0 * r,
        lambda r: 1 / (1 + r),
        lambda r, t: t**2,
    ),
    "truncated_snr": (
        WEIGHTINGS["truncated_snr"](),
        lambda r: np.maximum(r, 1) / r,
        lambda r: np.maximum(r, 1),
        lambda r: np.maximum(r, 1) / (1 + r),
        lambda r, t: t**2 * np.maximum(r, 1),
    ),
}


@pytest.mark.parametrize("row", TABLE)
def test_table_of_equivalent_weights(row):
    weighting, on_eps, on_x, on_v, on_velocity = TABLE[row]
    vp, flow = PROCESSES["cosine"](), PROCESSES["linear_flow"]()
    t = jnp.linspace(0.01, 0.99, 99)
    c, r = coeffs(vp, t), np.asarray(snr(coeffs(vp, t)), np.float64)
    for space, cell in (("eps", on_eps), ("x", on_x), ("v", on_v)):
        np.testing.assert_allclose(in_space(weighting, PREDICTIONS[space](), c), cell(r), rtol=2e-4)
    c, r, t = coeffs(flow, t), np.asarray(((1 - t) / t) ** 2, np.float64), np.asarray(t, np.float64)
    np.testing.assert_allclose(in_space(weighting, PREDICTIONS["velocity"](), c), on_velocity(r, t), rtol=2e-4)


def test_debias_weights_of_the_linear_table():
    c = coeffs(PROCESSES["ddpm_linear"](), (jnp.arange(1000) + 1) / 1000)
    weight = WEIGHTINGS["debias"]().weight(c)
    np.testing.assert_allclose([weight.min(), weight.max(), weight.mean()], [0.0100, 157.4, 17.8], rtol=5e-3)
    np.testing.assert_allclose(weight[499:].sum() / weight.sum(), 0.967, atol=2e-3)  # the noisy half has the weight


def test_edm_weight_is_the_papers_on_x():
    sigma, sd = jnp.geomspace(0.002, 80, 50), 0.5
    c = coeffs(PROCESSES["edm"](), sigma / 80)
    paper = (sigma**2 + sd**2) / (sigma * sd) ** 2
    np.testing.assert_allclose(in_space(WEIGHTINGS["edm"](), PREDICTIONS["x"](), c), paper, rtol=1e-4)


def test_sigmoid_loss_does_not_depend_on_the_schedule():
    """∫ w(t) f(log SNR) dt is an integral over log SNR: two schedules give one value."""
    found = []
    for name in ("cosine", "linear_flow"):
        process = PROCESSES[name]()
        t = process.t_min + (jnp.arange(200_000) + 0.5) / 200_000 * (process.t_max - process.t_min)
        c = coeffs(process, t)
        weight = in_space(WEIGHTINGS["sigmoid"](bias=1.0), PREDICTIONS["eps"](), c)
        found.append(jnp.mean(weight * jnp.exp(-jnp.square(jnp.log(snr(c)) / 4))) * (process.t_max - process.t_min))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_equal_loss_in_every_prediction_space(name, process):
    """The same error of the same denoiser costs the same, whichever way the network states it."""
    process, weighting = PROCESSES[process](), WEIGHTINGS[name]()
    c = coeffs(process, process.t_of_log_snr(jnp.linspace(-6.0, 6.0, 9)))
    x, eps, error = jax.random.normal(jax.random.key(1), (3, 9, 2, 2, 1))
    wide = lambda k: k[:, None, None, None]  # noqa: E731
    x_t = wide(c.alpha) * x + wide(c.sigma) * eps
    believed_x = x + 0.1 * error
    believed_eps = (x_t - wide(c.alpha) * believed_x) / wide(c.sigma)
    losses = []
    for space in (factory() for factory in PREDICTIONS.values()):
        out = target(space, c, believed_x, believed_eps)
        np.testing.assert_allclose(to_x(space, c, x_t, out), believed_x, atol=2e-3)
        np.testing.assert_allclose(
            to_eps(space, c, x_t, out), believed_eps, atol=2e-3 * float(jnp.abs(believed_eps).max() + 1)
        )
        squared = jnp.mean(jnp.square(out - target(space, c, x, eps)), axis=(1, 2, 3))
        losses.append(in_space(weighting, space, c) * squared)
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=2e-2)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_positive_and_finite_over_the_training_range(name, process):
    process = PROCESSES[process]()
    c = coeffs(process, jnp.linspace(process.t_min, process.t_max, 1001))
    for space in PREDICTIONS.values():
        weight = in_space(WEIGHTINGS[name](), space(), c)
        assert np.all(weight > 0) and np.all(np.isfinite(weight))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_normalised_has_unit_mean_in_v_space(name, process):
    process, times = PROCESSES[process](), TIMES["uniform"]()
    weighting = normalised(WEIGHTINGS[name](), process, times)
    t, _ = times.quantile(process, (jnp.arange(10_007) + 0.5) / 10_007)
    mean = jnp.mean(in_space(weighting, PREDICTIONS["v"](), coeffs(process, t)))
    np.testing.assert_allclose(mean, 1, rtol=2e-2)


def test_max_weight_caps_in_the_weightings_own_space():
    c = coeffs(PROCESSES["ddpm_cosine"](), (jnp.arange(1000) + 1) / 1000)
    assert WEIGHTINGS["debias"]().weight(c).max() > 1e4
    capped = clipped(WEIGHTINGS["debias"](), 100.0).weight(c)
    assert capped.max() == 100
    np.testing.assert_array_equal(capped[:900], WEIGHTINGS["debias"]().weight(c)[:900])


@pytest.mark.parametrize(
    "call",
    [
        lambda: WEIGHTINGS["min_snr"](gamma=0),
        lambda: WEIGHTINGS["p2"](k=-1),
        lambda: clipped(WEIGHTINGS["debias"](), 0),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()
