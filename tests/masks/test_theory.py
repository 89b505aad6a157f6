"""Closed forms against complete enumeration: every mask of a few units, each with its probability."""

from itertools import product
from math import comb

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.masks import attenuation, mask_variance, masked_covariance, mean_inverse_count, noise_matched_batch
from maskdiff_jax.masks.draws import kept_count

RATIOS = (0.0, 0.3, 0.9)
COV = jnp.asarray(np.cov(np.random.default_rng(0).normal(size=(4, 9))), jnp.float32)
GROUPS = [None, jnp.array([0, 0, 1, 1]), jnp.array([2, 0, 2, 1])]


def bernoulli_masks(n: int, ratio: float):
    """Every mask of n units and its probability."""
    for mask in product((0.0, 1.0), repeat=n):
        kept = int(sum(mask))
        yield np.array(mask), (1 - ratio) ** kept * ratio ** (n - kept)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
def test_masked_covariance_is_the_mean_over_all_masks(ratio, groups):
    shared = np.arange(4) if groups is None else np.asarray(groups)
    exact = sum(
        p * np.outer(m[shared], m[shared]) * np.asarray(COV) for m, p in bernoulli_masks(shared.max() + 1, ratio)
    )
    np.testing.assert_allclose(masked_covariance(COV, ratio, groups), exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ratio", RATIOS)
def test_attenuation_is_milder_for_directions_of_low_variance(ratio):
    rho, keep = 0.8, 1 - ratio
    eigenvalues, beta = attenuation(jnp.array([[1.0, rho], [rho, 1.0]]), ratio)
    np.testing.assert_allclose(eigenvalues, [1 - rho, 1 + rho], rtol=1e-5)
    np.testing.assert_allclose(beta, keep**2 + ratio * keep / np.array([1 - rho, 1 + rho]), rtol=1e-5)
    assert beta[0] > beta[1] or ratio == 0


@pytest.mark.parametrize("ratio", RATIOS)
def test_one_draw_for_all_elements_attenuates_all_directions_alike(ratio):
    eigenvalues, beta = attenuation(COV, ratio, jnp.zeros(4, int))
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(COV), rtol=1e-4)
    np.testing.assert_allclose(beta, 1 - ratio, rtol=1e-4)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_mean_inverse_count_is_the_binomial_sum(n, ratio):
    exact = sum(comb(n, k) * (1 - ratio) ** k * ratio ** (n - k) / max(k, 1) for k in range(n + 1))
    assert mean_inverse_count(n, ratio) == pytest.approx(exact, rel=1e-12)


def test_mean_inverse_count_holds_for_the_elements_of_a_large_image():
    n, keep = 3 * 256**2, 0.02
    second_order = (1 + (1 - keep) / (n * keep)) / (n * keep)
    assert mean_inverse_count(n, 1 - keep) == pytest.approx(second_order, rel=1e-6)


@pytest.mark.parametrize("normalise", ["count", "expected", "none"])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_mask_variance_is_that_over_all_masks(n, ratio, exact, normalise):
    g = np.random.default_rng(1).normal(size=(n, 3)) + 1
    kept = kept_count(ratio, n)
    outcomes = []  # (probability, masked gradient)
    for mask, p in bernoulli_masks(n, ratio):
        k = int(mask.sum())
        if exact:
            p = (k == kept) / comb(n, kept)
        expected = kept if exact else (1 - ratio) * n
        if k == 0 and normalise == "count":  # one unit, uniform
            outcomes += [(p / n, g[i]) for i in range(n)]
        else:
            outcomes.append((p, mask @ g / {"count": k, "expected": expected, "none": n}[normalise]))
    mean = sum(p * x for p, x in outcomes)
    assert sum(p for p, _ in outcomes) == pytest.approx(1)
    np.testing.assert_allclose(mean, g.mean(0) * (1 if normalise != "none" else kept / n if exact else 1 - ratio))
    variance = sum(p * (x - mean) ** 2 for p, x in outcomes)
    np.testing.assert_allclose(mask_variance(jnp.asarray(g), ratio, exact, normalise), variance, rtol=1e-5, atol=1e-6)


def test_the_matched_batch_has_the_noise_of_the_sparse_one():
    batch, data, mask = 128, 3.0, 5.0
    matched = noise_matched_batch(batch, data, mask)
    assert data / matched == pytest.approx((data + mask) / batch)
    assert noise_matched_batch(batch, data, 0.0) == batch


@pytest.mark.parametrize("arguments", [(0, 1.0, 1.0), (8, 0.0, 1.0), (8, 1.0, -1.0), (8, float("nan"), 1.0)])
def test_a_matched_batch_of_impossible_variances_is_refused(arguments):
    with pytest.raises(ValueError, match="noise-matched batch needs"):
        noise_matched_batch(*arguments)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="normalise='sum'"):
        mask_variance(jnp.ones(4), 0.5, normalise="sum")
    with pytest.raises(ValueError, match="ratio=1"):
        masked_covariance(COV, 1.0)
