"""Posteriors, the terms of the variational bound, and the term that trains a learned variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from maskdiff_jax import rng, tokens
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.posterior import log_variance, posterior
from maskdiff_jax.diffusion.prediction import PREDICTIONS, eps, target
from maskdiff_jax.diffusion.process import PROCESSES, coeffs, ddpm_cosine, ddpm_linear, linear_flow
from maskdiff_jax.diffusion.times import discrete_uniform
from maskdiff_jax.diffusion.vlb import (
    discretised_gaussian_nll,
    gaussian_kl,
    prior_nats,
    step_nats,
    table_posterior,
    vlb_term,
)
from maskdiff_jax.diffusion.weighting import constant, debias
from maskdiff_jax.masks import dense, patch, sparse
from maskdiff_jax.types import Batch, Model, Output, Tokens

T = 20
TABLE = ddpm_cosine(steps=T)
X = jnp.tanh(jax.random.normal(jax.random.key(0), (4, 4, 4, 1)))
OFF = 0.1 * jax.random.normal(jax.random.key(1), X.shape)
TIMES = jnp.array([1, 2, 7, 20]) / T


# One compilation each: cheaper than one for every operation that they are made of.
decoder = jax.jit(discretised_gaussian_nll)
decoder_slope = jax.jit(jax.jacfwd(lambda log_var, x, mean: discretised_gaussian_nll(x, mean, log_var)))
terms = jax.jit(step_nats, static_argnums=(0, 4))


def wide(a):
    return a[:, None, None, None]


@pytest.mark.parametrize("name", PROCESSES)
def test_posterior_carries_the_marginal_at_t_to_the_one_at_s(name):
    process = PROCESSES[name]()
    s, t = (process.t_of_log_snr(jnp.linspace(5.0, -5, 9)[i]) for i in (slice(None, -1), slice(1, None)))
    q, now, then = posterior(process, t, s), coeffs(process, t), coeffs(process, s)
    np.testing.assert_allclose(q.from_x + q.from_x_t * now.alpha, then.alpha, rtol=1e-4)
    np.testing.assert_allclose((q.from_x_t * now.sigma) ** 2 + jnp.exp(q.log_small), then.sigma**2, rtol=1e-4)
    forward = now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2
    np.testing.assert_allclose(jnp.exp(q.log_large), forward, rtol=1e-3)


def test_learned_variance_interpolates_in_logarithms():
    q = posterior(TABLE, TIMES, TIMES - 0.5 / T)
    v = jnp.stack([jnp.zeros(4), jnp.full(4, 0.25), jnp.ones(4)], axis=1)
    log_var = log_variance(q, "learned", v)
    np.testing.assert_array_equal(log_var[:, 0], log_variance(q, "small"))
    np.testing.assert_array_equal(log_var[:, 2], log_variance(q, "large"))
    np.testing.assert_allclose(log_var[:, 1], q.log_small + (q.log_large - q.log_small) / 4, rtol=1e-5)


def test_gaussian_kl():
    np.testing.assert_allclose(gaussian_kl(jnp.float32(0.25), jnp.float32(0), jnp.log(4.0)), 0.3493972, rtol=1e-5)
    gap = 1e-3  # where the three terms cancel to gap²/4
    np.testing.assert_allclose(gaussian_kl(jnp.float32(0), jnp.float32(-gap), jnp.float32(0)), 2.499167e-7, rtol=1e-3)


@pytest.mark.parametrize("std", [0.002, 0.05, 3.0])
@pytest.mark.parametrize("mean", [-1.2, 0.001, 0.9])
def test_decoder_puts_mass_one_on_the_grey_levels_and_is_exact_in_the_tails(mean, std):
    levels, log_var = np.arange(256, dtype=np.float32) / 127.5 - 1, np.float32(2 * np.log(std))
    nats = np.asarray(decoder(levels, np.float32(mean), log_var))
    assert np.exp(-nats).sum() == pytest.approx(1, rel=2e-3)
    x = levels.astype(np.float64)
    low, high = (x - 1 / 255 - mean) / std, (x + 1 / 255 - mean) / std
    low[0], high[-1] = -np.inf, np.inf
    low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    expected = -norm.logcdf(high) - np.log(-np.expm1(norm.logcdf(low) - norm.logcdf(high)))
    np.testing.assert_allclose(nats, expected, rtol=2e-3, atol=1e-3)
    assert np.isfinite(decoder_slope(log_var, levels, np.float32(mean))).all()


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_terms_of_a_table(variance):
    """KL between the two Gaussians that the docstrings state, in float64; at the first entry the decoder."""
    v = jnp.full(X.shape, 0.3)
    nats = np.asarray(terms(TABLE, TIMES, X, X + OFF, variance, v), np.float64)
    off = np.asarray(OFF, np.float64)
    for row, i in enumerate([1, 2, 7, 20]):
        at = lambda f, i: np.asarray(f(jnp.float32(i / T)), np.float64)  # noqa: E731
        last = max(i, 2)  # the first entry borrows the second one's bound
        left = 1 - (at(TABLE.alpha, last) * at(TABLE.sigma, last - 1)) ** 2 / (
            (at(TABLE.sigma, last) * at(TABLE.alpha, last - 1)) ** 2
        )
        small = at(TABLE.sigma, last - 1) ** 2 * left
        large = at(TABLE.sigma, i) ** 2 * (left if i > 1 else 1)
        p = {"small": small, "large": large, "learned": large**0.3 * small**0.7}[variance]
        if i == 1:
            expected = decoder(X[0], X[0] + OFF[0], np.float32(np.log(p)))
        else:
            distance = (at(TABLE.alpha, i - 1) * left * off[row]) ** 2
            expected = (np.log(p / small) + small / p - 1 + distance / p) / 2
        np.testing.assert_allclose(nats[row], expected, rtol=2e-3, atol=1e-5)


def test_prior():
    """Sampling starts from N(0, sigma²), whose mean is alpha·x off."""
    process = ddpm_linear(steps=10)
    alpha, sigma = process.alpha(jnp.float32(1)), process.sigma(jnp.float32(1))
    np.testing.assert_allclose(prior_nats(process, X), (alpha * X / sigma) ** 2 / 2, rtol=1e-5)


@pytest.mark.parametrize("space", PREDICTIONS)
def test_training_term_is_the_same_in_every_space_and_leaves_the_mean_alone(space):
    prediction, c = PREDICTIONS[space](), coeffs(TABLE, TIMES)
    v, x_t = jnp.full(X.shape, 0.4), wide(c.alpha) * X + wide(c.sigma) * OFF
    out = [target(prediction, c, x, (x_t - wide(c.alpha) * x) / wide(c.sigma)) for x in (X, X + OFF)]
    nats, back = jax.vjp(lambda *args: vlb_term(TABLE, prediction, TIMES, X, *args), out[1] - out[0], v)
    to_error, to_v = back(jnp.ones_like(nats))
    expected = T * terms(TABLE, TIMES, X, X + OFF, "learned", v)
    np.testing.assert_allclose(nats, expected, rtol=1e-3, atol=1e-4)
    assert not jnp.any(to_error) and jnp.all(jnp.isfinite(to_v)) and jnp.all(to_v != 0)


def network(variance=True, grid=True):
    """Scales x_t per place; its variance is a number per place."""

    def apply(params, x, level, cond, *, visible=None, train=False, key=None):
        def units(image):
            image = tokens.patchify(image, 2) if grid else image
            return image if visible is None else tokens.gather(image, visible)

        v = units(jnp.broadcast_to(params["v"][None], x.shape))
        return Output(units(x * params["scale"][None]), visible, v if variance else None)

    return Model(lambda key: {}, apply, Tokens((2, 2), 2) if grid else None)


PARAMS = {"scale": jnp.linspace(0.5, 1, 16).reshape(4, 4, 1), "v": jnp.linspace(0.1, 0.9, 16).reshape(4, 4, 1)}
KEY = jax.random.key(3)


def objective(model=None, weighting=None, supervision=None, process=TABLE, **options):
    weighting, supervision = weighting or constant("eps"), supervision or dense()
    times = discrete_uniform(steps=T)
    return make_objective(model or network(), process, eps(), weighting, times, supervision, **options)


def gradients(**options):
    return jax.grad(lambda p: objective(model=network(grid=False), **options).loss(p, Batch(X), KEY)[0])(PARAMS)


def drawn_term(draws):
    """The term of the whole images of the draws [b, h, w, c], from its definition."""
    c, noise = coeffs(TABLE, draws.t), rng.normal(rng.key_for(draws.keys, "noise"), X.shape[1:])
    out = (wide(c.alpha) * X + wide(c.sigma) * noise) * PARAMS["scale"][None]
    v = jnp.broadcast_to(PARAMS["v"][None], X.shape)
    return vlb_term(TABLE, eps(), draws.t, X, out - noise, v)


def test_objective_adds_the_unweighted_unmasked_term():
    common = {"model": network(grid=False), "weighting": debias(), "supervision": sparse(0.5)}
    plain, both = objective(**common), objective(**common, vlb_weight=0.01)
    draws = both.draw(Batch(X), KEY)
    (before, _), (after, metrics) = (o.per_image(PARAMS, Batch(X), draws) for o in (plain, both))
    expected = drawn_term(draws).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["vlb"], expected, rtol=1e-4)
    np.testing.assert_allclose(after - before, 0.01 * expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("by_inclusion", [False, True])
def test_objective_takes_the_term_of_the_visible_tokens(by_inclusion):
    """`patch` is uniform, so that weighting by inclusion changes nothing."""
    visibility = patch(0.5)
    masked = objective(passes=((1.0, visibility),), vlb_weight=1.0, weight_by_inclusion=by_inclusion)
    draws = masked.draw(Batch(X), KEY)
    keys = rng.key_for(rng.key_for(draws.keys, "pass 0"), "visibility")
    cut = tokens.gather(tokens.patchify(drawn_term(draws), 2), visibility.sample(keys, (2, 2)))
    assert cut.shape[1] == 2
    _, metrics = masked.per_image(PARAMS, Batch(X), draws)
    np.testing.assert_allclose(metrics["vlb"], cut.mean(axis=(1, 2, 3, 4)), rtol=1e-4)


def test_objective_trains_the_variance_by_the_term_and_the_mean_by_the_rest():
    plain, both = gradients(), gradients(vlb_weight=0.01)
    np.testing.assert_allclose(both["scale"], plain["scale"], rtol=1e-5, atol=1e-7)
    assert not jnp.any(plain["v"]) and jnp.all(both["v"] != 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"vlb_weight": -1.0}, "vlb_weight must be finite and at least 0, got -1"),
        ({"vlb_weight": 0.1, "process": linear_flow()}, "vlb_weight=0.1 needs a process with a table of steps"),
        ({"vlb_weight": 0.1, "model": network(variance=False)}, "needs a network with a variance"),
    ],
)
def test_objective_errors(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(objective(**options).loss, PARAMS, Batch(X), KEY)


def test_a_bound_needs_a_table():
    with pytest.raises(ValueError, match="a table of at least 2 steps"):
        table_posterior(linear_flow(), TIMES)
