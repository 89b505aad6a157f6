"""What is particular to the U-Net: its published sizes, its blocks against their formulas, its hook and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.unet import unet
from maskdiff_jax.models.unet_layers import AttentionBlock, ResBlock, fan_in_uniform
from maskdiff_jax.types import Cond
from tests.models.perturb import random_params

TINY = {"base": 4, "multipliers": (1,), "head_channels": 2, "groups": 2}


def shapes(image_shape, classes=0, **options):
    return jax.eval_shape(unet(image_shape, classes, **options).init, jax.random.key(0))


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameter_counts_of_debias():
    """93.56 M at 256 px and 30.47 M on CIFAR-10 (Yu et al. 2024); the row of the null label is ours."""
    assert count(shapes((256, 256, 3), learned_variance=True)) == 93_563_910
    cifar = shapes((32, 32, 3), 10, learned_variance=True)
    assert cifar["conditions_label"]["table"]["embedding"].shape == (11, 512)
    assert count(cifar) == 30_473_990 + 512


def test_parameter_count_of_adm():
    """296 M at 64 px, class-conditional on ImageNet (Dhariwal & Nichol 2021, table 4)."""
    adm = shapes((64, 64, 3), 1000, base=192, blocks=3, attention=(32, 16, 8), learned_variance=True)
    assert round(count(adm) / 1e6) == 296


def test_attention_is_where_it_was_asked_for_and_in_the_middle():
    def places(image_shape, **options):
        params = shapes(image_shape, **{**TINY, "multipliers": (1, 1), **options})
        return {name for name in params if name.endswith("attention")}

    level_1 = {"encoder_1_0_attention", "decoder_1_0_attention", "decoder_1_1_attention", "middle_attention"}
    assert places((32, 48, 1)) == level_1
    assert places((32, 32, 1), attention=()) == places((28, 28, 1)) == {"middle_attention"}


def test_kernels_start_uniform_in_one_over_the_root_of_the_fan_in():
    kernel = np.asarray(fan_in_uniform(jax.random.key(0), (3, 3, 16, 32)))
    limit = 1 / np.sqrt(3 * 3 * 16)
    assert kernel.shape == (3, 3, 16, 32) and 0.99 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
    assert np.abs(kernel.mean()) < 0.05 * limit


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, params, groups=2):
    """Over the positions and the channels of a group of [b, h, w, c]."""
    cut = x.reshape(*x.shape[:-1], groups, -1)
    mean, var = cut.mean((1, 2, 4), keepdims=True), cut.var((1, 2, 4), keepdims=True)
    return ((cut - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * params["scale"] + params["bias"]


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def conv(x, params):
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + h, j : j + w] @ params["kernel"][i, j] for i in range(3) for j in range(3)]
    return sum(taps) + params["bias"]


def down(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def up(x):
    return np.kron(x, np.ones((1, 2, 2, 1)))


def initialised(block, *inputs):
    """N(0, 0.3) parameters, as NumPy arrays of float64, and the block's answer for them."""
    params = random_params(lambda key: block.init(key, *inputs)["params"], scale=0.3)
    return jax.tree.map(np.float64, params), jax.jit(block.apply)({"params": params}, *inputs)


@pytest.mark.parametrize(("kind", "resample"), {"keep": lambda x: x, "down": down, "up": up}.items())
def test_a_residual_block_follows_its_formula(kind, resample):
    x, c = jax.random.normal(jax.random.key(0), (2, 4, 6, 4)), jax.random.normal(jax.random.key(1), (2, 5))
    features = 6 if kind == "keep" else 4  # where the channels change, the skip connection is linear
    p, out = initialised(ResBlock(features, 2, "float32", kind), x, c)
    x, c = np.float64(x), np.float64(c)
    h = conv(resample(silu(group_norm(x, p["norm"]))), p["conv"])
    scale, shift = np.split(linear(silu(c), p["modulation"])[:, None, None], 2, axis=-1)
    h = conv(silu(group_norm(h, p["out_norm"]) * (1 + scale) + shift), p["out_conv"])
    skip = linear(resample(x), p["skip"]) if kind == "keep" else resample(x)
    np.testing.assert_allclose(out, skip + h, atol=1e-4)
    assert ("skip" in p) == (kind == "keep")


@pytest.mark.parametrize("tokens", [0, 3])
def test_attention_is_a_softmax_over_the_image_and_the_context(tokens):
    x, context = jax.random.normal(jax.random.key(0), (2, 2, 3, 8)), jax.random.normal(jax.random.key(1), (2, 3, 5))
    p, out = initialised(AttentionBlock(4, 2, "float32"), x, *([context] if tokens else []))
    x = np.float64(x)
    q, k, v = np.split(linear(group_norm(x, p["norm"]).reshape(2, 6, 8), p["qkv"]), 3, axis=-1)
    assert ("context" in p) == bool(tokens)
    if tokens:
        more = np.split(linear(np.float64(context), p["context"]), 2, axis=-1)
        k, v = np.concatenate([k, more[0]], axis=1), np.concatenate([v, more[1]], axis=1)
    q, k, v = (a.reshape(2, -1, 2, 4) for a in (q, k, v))
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(4))
    h = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(out, x + linear(h.reshape(x.shape), p["out"]), atol=1e-4)


def test_tokens_of_a_condition_are_attended_to():
    options = {**TINY, "conditioning": {"label_token": {}}}
    x = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 1)), (4, 1, 1, 1))
    model = unet((8, 8, 1), 3, **options)
    params = random_params(model.init, scale=0.7)
    out = jax.jit(model.apply)(params, x, jnp.zeros(4), Cond(label=jnp.arange(-1, 3))).prediction
    assert min(np.abs(a - b).max() for i, a in enumerate(out) for b in out[:i]) > 1e-3
    assert "context" in params["middle_attention"]
    assert "context" not in shapes((8, 8, 1), 3, **TINY)["middle_attention"]
    with pytest.raises(ValueError, match=r"cond\.label is None"):
        jax.eval_shape(model.apply, params, x, jnp.zeros(4), Cond())


def test_learned_variance_is_a_coefficient_in_0_1():
    model = unet((8, 8, 2), learned_variance=True, **TINY)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    apply = jax.jit(model.apply)
    fresh = apply(random_params(model.init, scale=0.0), x, jnp.zeros(2), Cond())
    np.testing.assert_array_equal(fresh.variance, jnp.full_like(fresh.prediction, 0.5))

    params = random_params(model.init, scale=0.5)
    out = apply(params, x, jnp.zeros(2), Cond())
    assert out.prediction.shape == out.variance.shape == (2, 8, 8, 2)
    assert out.variance.min() == 0 and out.variance.max() == 1 and out.prediction.max() > 1
    # The output channels are in the order (prediction, variance).
    params["final"]["bias"] = params["final"]["bias"] + np.float32([0, 0, 0.1, 0.1])
    moved = apply(params, x, jnp.zeros(2), Cond())
    np.testing.assert_array_equal(moved.prediction, out.prediction)
    inside = (out.variance > 0) & (out.variance < 0.9)
    np.testing.assert_allclose(moved.variance[inside], out.variance[inside] + 0.05, atol=1e-5)
    assert inside.sum() > 10


def test_a_pixel_is_answered_in_its_place_and_the_level_is_scaled():
    """With the first convolution, the last skip connection and the last convolution alone, the answer is pixelwise."""
    discrete = unet((4, 6, 1), level_scale=1.0, **TINY)
    apply = jax.jit(discrete.apply)
    params = random_params(discrete.init, scale=0.0)
    params["embed"]["kernel"][1, 1] = np.eye(1, 4)
    params["decoder_0_1"]["skip"]["kernel"][4:] = np.eye(4)  # the half that comes from the encoder
    params["norm"]["scale"] += 1
    params["final"]["kernel"][1, 1] = np.eye(4, 1)
    dot = np.zeros((1, 4, 6, 1), np.float32)
    dot[0, 3, 2] = 5.0
    out = np.asarray(apply(params, dot, jnp.zeros(1), Cond()).prediction)[0, :, :, 0]
    others = np.delete(out.ravel(), 3 * 6 + 2)
    np.testing.assert_array_equal(others, others[0])
    assert out[3, 2] > others[0] + 1

    params = random_params(discrete.init, scale=0.5)
    a, b = (apply(params, dot, jnp.array([level]), Cond()).prediction for level in (250.0, 500.0))
    continuous = jax.jit(unet((4, 6, 1), **TINY).apply)
    np.testing.assert_allclose(continuous(params, dot, jnp.array([0.25]), Cond()).prediction, a, atol=1e-4)
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, r"dtype='float16': choose from float32, bfloat16"),
        ({"image_shape": (20, 24, 1)}, r"give multipliers for an image of 20×24; there are defaults for sides of 256,"),
        ({"multipliers": ()}, r"multipliers=\(\): one whole number of at least 1 for each level"),
        ({"multipliers": (1, 0)}, r"multipliers=\(1, 0\): one whole number"),
        ({"image_shape": (8, 6, 1), "multipliers": (1, 1, 1)}, r"3 levels need sides divisible by 4, not 8×6"),
        ({"preset": "sdxl"}, r"preset='sdxl': choose from adm, ldm"),
        ({"base": 0, "blocks": 0}, r"must be at least 1: base=0, blocks=0"),
        ({"head_channels": -1, "transformer_depth": -1}, r"must be at least 0: head_channels=-1, transformer_depth=-1"),
        ({"groups": 32}, r"base=48 must be even and divisible by groups=32"),
        ({"base": 9, "groups": 3}, r"base=9 must be even and divisible by groups=3"),
        ({"attention": (16,)}, r"attention=16: choose from the sides of the levels, 8, 4"),
        ({"head_channels": 64}, r"head_channels=64 does not divide the 96 channels of an attention block"),
        ({"attention": (8,), "head_channels": 32}, r"head_channels=32 does not divide the 48 channels"),
        ({"level_scale": 0.0}, r"level_scale=0.0 must be positive"),
        ({"classes": -1}, r"classes=-1: a number of classes, or 0"),
        ({"conditioning": {"pose": {}}}, r"conditioning='pose': choose from label"),
        ({"conditioning": {"label_token": {}}}, r"label needs classes ≥ 1, got 0"),
    ],
)
def test_errors_name_what_is_wrong(options, message):
    valid = {"image_shape": (8, 8, 1), "base": 48, "head_channels": 16, "groups": 16}
    unet(**valid)
    with pytest.raises(ValueError, match=message) as error:
        unet(**{**valid, **options})
    assert "\n" not in str(error.value)
