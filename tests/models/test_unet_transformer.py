"""The latent-diffusion preset of the U-Net: its published size, its transformer against the formula, its context."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskdiff_jax.models.unet import unet
from maskdiff_jax.models.unet_layers import ResBlock, conv, double
from maskdiff_jax.models.unet_transformer import SourceAttention, SpatialTransformer, TransformerBlock
from maskdiff_jax.types import Array, Cond, CondShape
from tests.models.perturb import random_params
from tests.models.test_unet import conv as conv_formula
from tests.models.test_unet import count, group_norm, initialised, linear, shapes, silu, up

TINY = {"preset": "ldm", "base": 4, "multipliers": (1, 2), "blocks": 1, "groups": 2}
TEXT = CondShape(classes=3, text_length=3, text_width=5)


def test_parameter_count_of_ldm_4():
    """400.92 M, class-conditional on ImageNet (the released U-Net), but for the width of its tokens and their table."""
    params = shapes((64, 64, 3), 1000, preset="ldm")
    table = params.pop("conditions_label_token")
    assert count(table) == 1001 * 768
    context = [
        block["block_0"]["cross_attention"]["key_value"]["kernel"].shape
        for name, block in params.items()
        if name.endswith("attention")
    ]
    assert len(context) == 16 and {width for width, _ in context} == {768}  # 15 beside residual blocks, 1 in the middle
    assert count(params) - sum((768 - 512) * n for _, n in context) == 400_920_579


def test_options_override_the_preset():
    def kinds(**options):
        params = shapes((8, 8, 1), 3, **{**TINY, **options})
        depth = sum(name.startswith("block_") for name in params["middle_attention"])
        in_blocks = "out_conv" in params["down_1"] and "out_conv" in params["up_1"]
        return depth, in_blocks, params["middle_0"]["modulation"]["bias"].shape[0], "encoder_0_0_attention" in params

    assert kinds() == (1, False, 8, False)
    assert kinds(transformer_depth=2, attention=(8,)) == (2, False, 8, True)
    assert kinds(transformer_depth=0, resample_in_blocks=True, scale_shift=True) == (0, True, 16, False)
    params = shapes((8, 8, 1), 3, **{**TINY, "preset": "adm"}, transformer_depth=1, head_channels=4)
    assert "block_0" in params["middle_attention"] and "conditions_label" in params


def test_without_condition_tokens_there_is_no_cross_attention():
    for params in (shapes((8, 8, 1), **TINY), shapes((8, 8, 1), 3, conditioning={"label": {}}, **TINY)):
        assert set(params["middle_attention"]["block_0"]) == {"norm", "attention", "mlp_norm", "mlp"}
    token = shapes((8, 8, 1), 3, **TINY)["middle_attention"]["block_0"]
    assert {"cross_norm", "cross_attention"} < set(token)


def layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def attention(x, source, params, head_channels, mask=None):
    def heads(x):
        return x.reshape(*x.shape[:2], -1, head_channels)

    key, value = np.split(source @ params["key_value"]["kernel"], 2, axis=-1)
    logits = np.einsum("bqhd,bkhd->bhqk", heads(x @ params["query"]["kernel"]), heads(key)) / np.sqrt(head_channels)
    weights = np.exp(logits) * (1 if mask is None else np.asarray(mask)[:, None, None])
    h = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), heads(value))
    return linear(h.reshape(x.shape), params["out"])


def gelu(x):
    """x·Φ(x), exactly."""
    return x * np.float64(jax.scipy.special.erf(x / np.sqrt(2)) + 1) / 2


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_transformer_block_follows_its_formula(tokens):
    x, context = jax.random.normal(jax.random.key(0), (2, 6, 8)), jax.random.normal(jax.random.key(1), (2, 3, 5))
    mask = jnp.array([[True, False, True], [False, False, True]])
    p, out = initialised(TransformerBlock(4, "float32"), x, *([context, mask] if tokens else []))
    x, context = np.float64(x), np.float64(context)
    h = layer_norm(x, p["norm"])
    x = x + attention(h, h, p["attention"], 4)
    assert ("cross_attention" in p) == bool(tokens)
    if tokens:
        x = x + attention(layer_norm(x, p["cross_norm"]), context, p["cross_attention"], 4, mask)
    h, gate = np.split(linear(layer_norm(x, p["mlp_norm"]), p["mlp"]["hidden"]), 2, axis=-1)
    assert h.shape[-1] == 4 * 8
    np.testing.assert_allclose(out, x + linear(h * gelu(gate), p["mlp"]["out"]), atol=1e-4)


def test_a_spatial_transformer_is_its_blocks_between_two_linear_layers():
    x, context = jax.random.normal(jax.random.key(0), (2, 2, 3, 8)), jax.random.normal(jax.random.key(1), (2, 3, 5))
    p, out = initialised(SpatialTransformer(2, 0, 2, "float32"), x, context)
    h = linear(group_norm(np.float64(x), p["norm"]).reshape(2, 6, 8), p["in"])
    for name in ("block_0", "block_1"):
        h = jax.jit(TransformerBlock(8, "float32").apply)({"params": p[name]}, jnp.float32(h), context)
    np.testing.assert_allclose(out, x + linear(np.float64(h), p["out"]).reshape(x.shape), atol=1e-3)


def test_a_fresh_spatial_transformer_is_the_identity():
    x, context = jax.random.normal(jax.random.key(0), (2, 2, 3, 8)), jax.random.normal(jax.random.key(1), (2, 3, 5))
    out, variables = jax.jit(SpatialTransformer(1, 4, 2, "float32").init_with_output)(jax.random.key(2), x, context)
    np.testing.assert_array_equal(out, x)
    assert all(np.any(np.asarray(part["kernel"]) != 0) for part in variables["params"]["block_0"]["attention"].values())


def test_an_image_without_any_token_to_attend_to_gets_the_bias():
    x, source = jax.random.normal(jax.random.key(0), (2, 4, 8)), jax.random.normal(jax.random.key(1), (2, 3, 5))
    p, out = initialised(SourceAttention(2, "float32"), x, source, jnp.array([[False] * 3, [True] * 3]))
    gap = np.abs(np.asarray(out) - p["out"]["bias"]).max(axis=(1, 2))
    assert gap[0] < 1e-6 and gap[1] > 1e-2


def test_a_residual_block_may_add_the_condition():
    x, c = jax.random.normal(jax.random.key(0), (2, 4, 6, 4)), jax.random.normal(jax.random.key(1), (2, 5))
    p, out = initialised(ResBlock(4, 2, "float32", scale_shift=False), x, c)
    x, c = np.float64(x), np.float64(c)
    h = conv_formula(silu(group_norm(x, p["norm"])), p["conv"]) + linear(silu(c), p["modulation"])[:, None, None]
    h = conv_formula(silu(group_norm(h, p["out_norm"])), p["out_conv"])
    np.testing.assert_allclose(out, x + h, atol=1e-4)


class Resampled(nn.Module):
    """A strided convolution and one of the doubled image, as the U-Net uses them."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        return conv(x, 3, name="down", stride=2), conv(double(x), 3, name="up")


def test_resampling_by_convolution():
    """Halving takes every second pixel's answer, from the first on, as the released weights do."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    p, (halved, doubled) = initialised(Resampled(), x)
    np.testing.assert_allclose(halved, conv_formula(np.float64(x), p["down"])[:, ::2, ::2], atol=1e-4)
    np.testing.assert_allclose(doubled, conv_formula(up(np.float64(x)), p["up"]), atol=1e-4)


TOKENS = jax.random.normal(jax.random.key(1), (2, 3, 5))
MASK = jnp.array([[True, True, False], [True, False, False]])
COND = Cond(label=jnp.array([0, 2]), text=TOKENS, text_mask=MASK)


def conditioned(dtype="float32"):
    """A small network of a label's and text tokens, attended to in the middle, and params, cond -> its predictions."""
    options = {**TINY, "attention": (), "conditioning": {"label_token": {}, "text": {}}}
    model = unet((4, 6, 1), TEXT, dtype=dtype, **options)
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    return model, lambda params, cond: model.apply(params, x, jnp.array([0.2, 0.7]), cond, train=True).prediction


@cache
def with_gradient():
    """(init, params, cond -> predictions and the gradient of their distance to 1), one program for all tests."""
    model, apply = conditioned()

    def loss(params, cond):
        out = apply(params, cond)
        return jnp.mean(jnp.square(out - 1)), out

    return model.init, jax.jit(jax.grad(loss, has_aux=True))


def test_tokens_of_a_condition_are_attended_to_unless_masked():
    init, run = with_gradient()
    params, seen = random_params(init, scale=0.5), MASK[..., None]
    base, *others = (
        np.asarray(run(params, cond)[1])
        for cond in (
            COND,
            COND._replace(text=jnp.where(seen, TOKENS, 100.0)),
            COND._replace(text=jnp.where(seen, -TOKENS, TOKENS)),
            COND._replace(label=jnp.array([-1, -1])),
        )
    )
    np.testing.assert_allclose(others[0], base, atol=1e-5)
    assert np.abs(others[1] - base).max() > 1e-3
    assert np.abs(others[2] - base).max() > 1e-3


def test_bfloat16_is_close_to_float32():
    init, run = with_gradient()
    params = random_params(init, scale=0.2)
    full, half = np.asarray(run(params, COND)[1]), jax.jit(conditioned("bfloat16")[1])(params, COND)
    assert half.dtype == jnp.float32
    assert 0 < np.sqrt(np.mean(np.square(half - full))) < 0.03 * full.std()


def test_every_parameter_gets_a_finite_nonzero_gradient():
    init, run = with_gradient()
    for path, grad in jax.tree.leaves_with_path(run(random_params(init, scale=0.3), COND)[0]):
        assert np.all(np.isfinite(grad)) and np.any(np.asarray(grad) != 0), jax.tree_util.keystr(path)
