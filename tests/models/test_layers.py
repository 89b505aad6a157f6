"""The shared layers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models import layers
from tests.models.perturb import random_params


def test_sinusoid_is_cosines_then_sines():
    x = np.array([0.0, 3.0, 250.0], np.float32)
    features = layers.sinusoid(jnp.asarray(x), 6)
    angles = x[:, None] * np.array([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])[None]
    np.testing.assert_allclose(features, np.concatenate([np.cos(angles), np.sin(angles)], axis=1), atol=1e-4)


def test_sinusoid_of_a_difference_is_a_function_of_the_difference():
    """<f(x), f(y)> = sum cos(w (x - y)): the property that makes levels comparable."""
    x = jnp.array([1.0, 4.0, 11.0, 14.0])
    gram = layers.sinusoid(x, 64) @ layers.sinusoid(x, 64).T
    np.testing.assert_allclose(gram[0, 1], gram[2, 3], rtol=1e-5)
    np.testing.assert_allclose(jnp.diag(gram), 32.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_the_softmax_average_of_values(dtype):
    heads, width = 2, 8
    x = jax.random.normal(jax.random.key(0), (3, 5, width))
    attention = layers.Attention(heads, dtype)
    params = random_params(lambda key: attention.init(key, x)["params"], scale=0.3)
    qkv = np.asarray(x) @ params["qkv"]["kernel"] + params["qkv"]["bias"][None, None]
    q, k, v = np.moveaxis(np.asarray(qkv).reshape(3, 5, 3, heads, width // heads), 2, 0)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // heads)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    h = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(3, 5, width)
    expected = h @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])[None, None]
    out = jax.jit(attention.apply)({"params": params}, x)
    assert out.dtype == dtype
    np.testing.assert_allclose(np.float32(out), expected, atol=1e-5 if dtype == "float32" else 0.03)


@pytest.mark.parametrize("dtype", layers.DTYPES)
def test_attend_is_that_of_jax(dtype):
    """With a mask and with a bias; gradients, too."""
    keys = jax.random.split(jax.random.key(3), 3)
    qkv, bias = (jax.random.normal(key, shape) for key, shape in zip(keys, [(2, 5, 36), (1, 3, 5, 5)], strict=False))
    mask = jax.random.bernoulli(keys[2], 0.7, (2, 5)).at[:, 0].set(True)

    def theirs(qkv):
        q, k, v = jnp.moveaxis(qkv.reshape(2, 5, 3, 3, 4), 2, 0)
        return jax.nn.dot_product_attention(q, k, v, bias=bias.astype(dtype), mask=mask[:, None, None]).reshape(
            2, 5, 12
        )

    def value_and_slope(attend):
        return jax.vjp(attend, qkv.astype(dtype)), jnp.cos(jnp.arange(120.0)).reshape(2, 5, 12).astype(dtype)

    (ours, slope), cotangent = value_and_slope(lambda qkv: layers.attend(qkv, 3, mask, bias.astype(dtype)))
    (wanted, their_slope), _ = value_and_slope(theirs)
    atol = {"float32": 1e-6, "bfloat16": 3e-2}[dtype]
    assert ours.dtype == wanted.dtype == dtype
    np.testing.assert_allclose(ours, wanted, atol=atol, rtol=0)
    np.testing.assert_allclose(slope(cotangent)[0], their_slope(cotangent)[0], atol=2 * atol, rtol=0)


def test_modulated_norm_has_the_asked_mean_and_scale():
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 4, 512))
    shift, scale = (jnp.full((2, 1, 512), value) for value in (0.5, 1.0))
    out = layers.ModulatedNorm().apply({}, x, shift, scale)
    np.testing.assert_allclose(jnp.mean(out, axis=-1), 0.5, atol=1e-5)
    np.testing.assert_allclose(jnp.std(out, axis=-1), 2.0, rtol=1e-5)


def test_norms_of_bfloat16_compute_in_float32():
    """A large common offset would lose the signal in bfloat16 arithmetic: 256 + 1 is 256 there."""
    x = jnp.asarray(256 + 2 * np.random.default_rng(0).integers(0, 8, (1, 2, 64)), jnp.bfloat16)
    zero = jnp.zeros((1, 1, 64), jnp.bfloat16)
    half = layers.ModulatedNorm("bfloat16").apply({}, x, zero, zero)
    full = layers.ModulatedNorm().apply({}, x.astype(jnp.float32), *2 * (zero.astype(jnp.float32),))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), full, rtol=0.01, atol=1e-3)


def test_modulation_and_final_layer_start_at_zero():
    c, x = jnp.ones((2, 8)), jnp.ones((2, 3, 8))
    shift, scale = jax.jit(layers.Modulation(2).init_with_output)(jax.random.key(0), c)[0]
    assert shift.shape == scale.shape == (2, 1, 8)
    assert not np.any(shift) and not np.any(scale)
    assert not np.any(jax.jit(layers.FinalLayer(5).init_with_output)(jax.random.key(0), x, c)[0])
