"""Bits per dimension of Gaussian data, where denoiser, reverse variance, bound and likelihood are known exactly."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from maskdiff_jax import rng
from maskdiff_jax.diffusion.posterior import posterior
from maskdiff_jax.diffusion.prediction import eps
from maskdiff_jax.diffusion.process import ddpm_cosine, linear_flow
from maskdiff_jax.diffusion.vlb import BIN, table_posterior
from maskdiff_jax.evaluate.likelihood import make_bits_per_dim, mean_bits_per_dim
from maskdiff_jax.types import Batch, Cond, Model, Output, Process

MEAN, STD, SHAPE = 0.1, 0.2, (16, 16, 1)
T = 40
TABLE = ddpm_cosine(steps=T)
FLOW = linear_flow()


def wide(a):
    return a[:, None, None, None]


def gaussian(process: Process) -> Model:
    """Predicts the noise of N(MEAN, STD²) data exactly, and the variance params["v"] [T] of each entry if there."""

    def apply(params, x_t, level, cond, *, visible=None, train=False, key=None):
        alpha, sigma = process.alpha(level), process.sigma(level)
        noise = wide(sigma / (alpha**2 * STD**2 + sigma**2)) * (x_t - wide(alpha) * MEAN)
        if "v" not in params:
            return Output(noise)
        v = params["v"][jnp.round(level * T).astype(int) - 1]
        return Output(noise, variance=jnp.broadcast_to(wide(v), noise.shape))

    return Model(lambda key: {}, apply)


def exact_v():
    """v [T] of the exact reverse step: the posterior's variance, and what x_t leaves open of x through its mean."""
    t = (jnp.arange(T) + 1) / T
    q, exact = table_posterior(TABLE, t), posterior(TABLE, t, jnp.arange(T) / T)
    alpha, sigma = TABLE.alpha(t), TABLE.sigma(t)
    spread = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)
    log_exact = jnp.log(jnp.exp(exact.log_small) + q.from_x**2 * spread)
    return (log_exact - q.log_small) / (q.log_large - q.log_small)


def images(n, seed=0):
    x = MEAN + STD * np.random.default_rng(seed).normal(size=(n, *SHAPE))
    return np.float32(np.round((x + 1) * 127.5) / 127.5 - 1)


def exact_bits(x):
    """-log2 of the mass that N(MEAN, STD²) puts on each grey level, mean over an image."""
    low, high = (norm.cdf((x + side / 255 - MEAN) / STD) for side in (-1, 1))
    return -np.log2(high - low).mean(axis=(1, 2, 3))


def closed_form(process, x, variance):
    """The bound's expectation over the noise, in float64, for the exact denoiser and a fixed variance."""
    x = np.asarray(x, np.float64)
    length = process.steps
    t = jnp.arange(0, length + 1) / length
    alpha, sigma = (np.asarray(f(t), np.float64) for f in (process.alpha, process.sigma))
    away, levels, weights = (x - MEAN) ** 2, *np.polynomial.hermite_e.hermegauss(80)
    small = lambda i: sigma[i - 1] ** 2 * (1 - (alpha[i] * sigma[i - 1] / (sigma[i] * alpha[i - 1])) ** 2)  # noqa: E731
    nats = (alpha[-1] / sigma[-1] * x) ** 2 / 2
    for i in range(1, length + 1):
        gain = alpha[i] * STD**2 / (alpha[i] ** 2 * STD**2 + sigma[i] ** 2)
        if i == 1:
            var = small(2) if variance == "small" else sigma[1] ** 2
            x_hat = MEAN + gain * (alpha[1] * (x[..., None] - MEAN) + sigma[1] * levels)
            middle, half = (
                -abs(x[..., None] - x_hat) / np.sqrt(var),
                1 / 255 / np.sqrt(var),
            )  # the tail that keeps digits
            nats = nats - np.log(norm.cdf(middle + half) - norm.cdf(middle - half)) @ (weights / weights.sum())
            continue
        left = 1 - (alpha[i] * sigma[i - 1] / (sigma[i] * alpha[i - 1])) ** 2
        error = away * (1 - gain * alpha[i]) ** 2 + (gain * sigma[i]) ** 2
        q, p = sigma[i - 1] ** 2 * left, left * (sigma[i - 1] if variance == "small" else sigma[i]) ** 2
        nats = nats + (np.log(p / q) + q / p - 1 + (alpha[i - 1] * left) ** 2 * error / p) / 2
    return nats.mean(axis=(1, 2, 3)) / math.log(2)


KEYS = rng.per_image(jax.random.key(0), 64)
DATA = Batch(jnp.asarray(images(64)))


@cache
def learned():
    return make_bits_per_dim(gaussian(TABLE), TABLE, eps(), variance="learned")


def bits_at(v):
    """Bits/dim of DATA on TABLE with the variances ``v`` [T] or a number for all."""
    return float(learned()({"v": jnp.full(T, v, jnp.float32)}, DATA, KEYS).mean())


@pytest.fixture(scope="module")
def likelihood():
    return exact_bits(DATA.image).mean()


@pytest.mark.parametrize("variance, v", [("small", 0.0), ("large", 1.0)])
def test_bound_of_a_table_is_its_closed_form(variance, v):
    assert bits_at(v) == pytest.approx(closed_form(TABLE, DATA.image, variance).mean(), rel=0.005)


def test_the_exact_reverse_variance_reaches_the_likelihood_in_forty_steps(likelihood):
    """The reverse of Gaussian data is Gaussian: with its variance the bound is tight whatever the number of steps."""
    v = exact_v()
    assert 0 < v.min() < v.max() < 1
    assert bits_at(v) == pytest.approx(likelihood, rel=0.005)


def test_a_variance_between_the_fixed_ones_beats_both(likelihood):
    bits = [bits_at(v) for v in (0.0, 0.35, 0.7, 1.0)]
    assert bits[2] < bits[1] < bits[0] and bits[2] < bits[3] - 0.02
    assert likelihood < bits[2]


def test_drawn_steps_are_unbiased_and_fixed_by_the_keys():
    """Ten of the 39 steps of each image."""
    measure = make_bits_per_dim(gaussian(TABLE), TABLE, eps(), variance="small", steps=10)
    bits = measure({}, DATA, KEYS)
    assert bits.shape == (64,)
    expected = closed_form(TABLE, DATA.image, "small").mean()
    assert bits.mean() == pytest.approx(expected, rel=0.01)
    assert mean_bits_per_dim(measure, {}, DATA, batch_size=64) == pytest.approx(float(bits.mean()), rel=1e-6)
    np.testing.assert_array_equal(measure({}, DATA._replace(image=DATA.image[::-1]), KEYS[::-1])[::-1], bits)


@pytest.mark.parametrize("t_first", [FLOW.t_of_log_snr(9.0).item(), None])
def test_continuous_bound(t_first, likelihood):
    """Tight from log SNR 9. From t_min, 15, this network pays for telling grey levels apart that it smooths over."""
    bits = make_bits_per_dim(gaussian(FLOW), FLOW, eps(), t_first=t_first, steps=32)({}, DATA, KEYS).mean()
    extra = 0 if t_first else math.log2(BIN * (1 - FLOW.t_min) / FLOW.t_min) - math.log2(2 * math.pi * math.e) / 2
    assert bits == pytest.approx(likelihood + extra, rel=0.01)


def test_mean_does_not_depend_on_the_batch_size():
    """A measure that tells image, condition and key apart; the last batch wraps around and is cut."""
    noise = lambda keys: jax.vmap(jax.random.uniform)(keys)  # noqa: E731
    measure = lambda params, batch, keys: batch.image.mean(axis=(1, 2, 3)) * batch.cond.label + noise(keys)  # noqa: E731
    data = Batch(images(23), Cond(label=np.arange(23, dtype=np.int32)))
    one, many = (mean_bits_per_dim(measure, {}, data, batch_size=size) for size in (23, 7))
    assert one == pytest.approx(many, rel=1e-6)
    assert one != pytest.approx(mean_bits_per_dim(measure, {}, data, batch_size=23, seed=1), rel=1e-6)


@pytest.mark.parametrize(
    "process, options, message",
    [
        (TABLE, {"variance": "tiny"}, "variance='tiny': choose from small, large, learned"),
        (FLOW, {"variance": "learned"}, "variance='learned' needs a process with a table"),
        (TABLE, {"steps": T}, f"at least 1 and at most {T - 1}, the steps between entries of the table, got {T}"),
        (FLOW, {"steps": 0}, "steps must be at least 1, got 0"),
        (TABLE, {"t_first": 0.1}, "t_first=0.1 is for continuous processes"),
        (FLOW, {"t_first": 1.0}, "t_first=1.0 is for continuous processes, in"),
    ],
)
def test_errors(process, options, message):
    with pytest.raises(ValueError, match=message):
        make_bits_per_dim(gaussian(process), process, eps(), **options)


def test_learned_needs_a_network_with_a_variance():
    with pytest.raises(ValueError, match="learned_variance=True"):
        jax.eval_shape(learned(), {}, DATA, KEYS)
