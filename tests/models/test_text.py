"""Encoders of text: who sees whom, where tokens are taken, closed forms of the parts, and published sizes.

The whole networks are held to transformers' in tests/crosscheck.
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.text import base, clip, t5
from maskdiff_jax.models.text.clip import ACTIVATIONS, LEGACY_END, ends
from maskdiff_jax.models.text.t5 import bucket
from maskdiff_jax.train.digest import flatten
from tests.models.perturb import random_params

END, LENGTH = 19, 8
SIZES = {"vocabulary": 20, "width": 16, "hidden": 24, "depth": 2, "heads": 4}
CLIP = SIZES | {"length": LENGTH, "end": END}
T5 = SIZES | {"head_width": 6, "distance": 16, "buckets": 8}
MEMBERS = {"clip": (clip, CLIP), "projected": (clip, CLIP | {"projection": 5}), "t5": (t5, T5)}
IDS = np.array([[3, 4, 5, END, 0, 0, 0, 0], [6, 7, 8, 9, 10, 11, 12, END]], np.int32)
MASK = np.array([[True] * 4 + [False] * 4, [True] * 8])


@cache
def network(member, **options):
    make, sizes = MEMBERS[member]
    net = make(**sizes | options)
    return net, random_params(net.init, scale=0.3), jax.jit(net.apply)


def encode(member, ids=IDS, mask=MASK, **options):
    _, params, apply = network(member, **options)
    return apply(params, ids, mask)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_float32_of_the_promised_widths(member, dtype):
    net, _, _ = network(member, dtype=dtype)
    encoded = encode(member, dtype=dtype)
    assert encoded.tokens.shape == (2, 8, net.width) and encoded.tokens.dtype == jnp.float32
    assert net.pooled_width == {"clip": 16, "projected": 5, "t5": None}[member]
    if net.pooled_width is None:
        assert encoded.pooled is None
    else:
        assert encoded.pooled.shape == (2, net.pooled_width) and encoded.pooled.dtype == jnp.float32
    exact = encode(member).tokens
    np.testing.assert_allclose(encoded.tokens, exact, atol=0.1 * float(exact.std()))


@pytest.mark.parametrize("member", MEMBERS)
def test_what_the_padding_holds_changes_no_token_of_the_text(member):
    first, second = encode(member), encode(member, np.where(MASK, IDS, 13))
    np.testing.assert_allclose(first.tokens[MASK], second.tokens[MASK], atol=1e-5)
    assert jnp.abs(first.tokens - second.tokens).max(axis=-1)[~MASK].min() > 1e-3
    if first.pooled is not None:
        np.testing.assert_allclose(first.pooled, second.pooled, atol=1e-5)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_longer_padding_changes_no_token_of_the_text(member):
    short = encode(member, IDS[:1, :4], MASK[:1, :4])
    np.testing.assert_allclose(encode(member).tokens[:1, :4], short.tokens, atol=1e-5)


def test_clip_is_causal_and_t5_is_not():
    later = np.where(np.arange(8)[None] < 3, IDS, (IDS[:, ::-1] + 1) % END)
    every = np.ones_like(MASK)
    for member, causal in (("clip", True), ("t5", False)):
        change = jnp.abs(encode(member, IDS, every).tokens - encode(member, later, every).tokens).max(axis=-1)
        assert (change[:, :3].max() < 1e-5) == causal
        assert change[:, 3:].min() > 1e-3


def test_clips_mask_acts_on_the_padding_only():
    """Tokens of the text never attend to what comes after them; those of the padding do attend to padding before."""
    seen, unseen = encode("clip", mask=np.ones_like(MASK)), encode("clip")
    np.testing.assert_allclose(seen.tokens[MASK], unseen.tokens[MASK], atol=1e-5)
    np.testing.assert_allclose(seen.pooled, unseen.pooled, atol=1e-5)
    assert jnp.abs(seen.tokens - unseen.tokens)[0, 5:].max() > 1e-3


def test_t5_knows_relative_positions_only():
    """A text after hidden tokens is the text before them."""
    here = encode("t5").tokens[0]
    shifted = encode("t5", np.roll(IDS, 3, axis=1), np.roll(MASK, 3, axis=1)).tokens[0]
    np.testing.assert_allclose(shifted[3:7], here[:4], atol=1e-5)
    swapped = encode("t5", IDS[:, [1, 0, 2, 3, 4, 5, 6, 7]]).tokens[0]
    assert jnp.abs(swapped[:2] - here[jnp.array([1, 0])]).max() > 1e-3  # and those it knows


def test_the_pooled_vector_is_the_projected_token_at_the_end():
    for member in ("clip", "projected"):
        _, params, _ = network(member)
        encoded = encode(member)
        expected = np.asarray(encoded.tokens)[[0, 1], [3, 7]]
        if "projection" in params:
            expected = expected @ params["projection"]["kernel"]
        np.testing.assert_allclose(encoded.pooled, expected, rtol=1e-5, atol=1e-5)


def test_ends():
    ids = jnp.array([[5, 7, 9, 7], [7, 7, 3, 9], [1, 2, 3, 3]])
    np.testing.assert_array_equal(ends(ids, 7), [1, 0, 0])
    np.testing.assert_array_equal(ends(ids, LEGACY_END), [2, 3, 2])


@pytest.mark.parametrize("member", ["clip", "t5"])
def test_tokens_before_the_last_layer(member):
    """One layer before the last of two: what a network of the first alone would normalise."""
    _, params, _ = network(member)
    skipped = np.asarray(encode(member, skip=1).tokens)
    single = {name: leaves for name, leaves in params.items() if name != "layer_1"}
    alone = network(member, depth=1)[2](single, IDS, MASK).tokens
    final = params["final_norm"]
    if member == "clip":
        centred = skipped - skipped.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + (final["bias"] / final["scale"])
    else:
        expected = skipped / np.sqrt((skipped**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(alone, expected * final["scale"][None, None], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, False), (0.5, True)])
def test_attention_is_the_softmax_average_of_the_values(scale, bias):
    heads, head_width, width = 2, 3, 4
    x = jax.random.normal(jax.random.key(0), (2, 5, width))
    offsets = jax.random.normal(jax.random.key(1), (1, heads, 5, 5))
    allowed = jnp.tril(jnp.ones((5, 5), bool))[None, None] & jnp.ones((2, 1, 1, 5), bool)
    attention = base.SelfAttention(heads, head_width, scale, bias)
    params = random_params(lambda key: attention.init(key, x, allowed, offsets)["params"], scale=0.5)

    def project(h, name):
        out = np.asarray(h) @ params[name]["kernel"]
        return out + params[name]["bias"][None, None] if bias else out

    q, k, v = (project(x, name).reshape(2, 5, heads, head_width) for name in ("query", "key", "value"))
    logits = scale * np.einsum("bqhd,bkhd->bhqk", q, k) + np.asarray(offsets)
    weights = np.where(np.asarray(allowed), np.exp(logits), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    h = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, heads * head_width)
    out = jax.jit(attention.apply)({"params": params}, x, allowed, offsets)
    np.testing.assert_allclose(out, project(h, "out"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_t5s_layer_without_attention(feed_forward):
    _, params, apply = network("t5", skip=1, feed_forward=feed_forward)
    layer = params["layer_0"]
    muted = layer | {"attention": jax.tree.map(np.zeros_like, layer["attention"])}
    x = params["token_embedding"]["embedding"][IDS]
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * layer["norm_2"]["scale"][None, None]
    if feed_forward == "relu":
        h = np.maximum(y @ layer["hidden"]["kernel"], 0)
    else:
        z = y @ layer["gate"]["kernel"]
        h = z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2 * (y @ layer["gated"]["kernel"])
    tokens = apply(params | {"layer_0": muted}, IDS, MASK).tokens
    np.testing.assert_allclose(tokens, x + h @ layer["out"]["kernel"], rtol=1e-4, atol=1e-5)


def test_activations():
    x = np.linspace(-4, 4, 33)
    quick = x / (1 + np.exp(-1.702 * x))
    exact = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x]
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](jnp.asarray(x, jnp.float32)), quick, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["gelu"](jnp.asarray(x, jnp.float32)), exact, atol=1e-6)


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20)])
def test_buckets(buckets, distance):
    half, exact = buckets // 2, buckets // 4
    far = np.arange(4 * distance)
    before, after = bucket(-far, buckets, distance), bucket(far, buckets, distance)
    np.testing.assert_array_equal(before[:exact], far[:exact])
    np.testing.assert_array_equal(after[1:], before[1:] + half)
    assert set(before) == set(range(half)) and (np.diff(before) >= 0).all()
    assert (before[distance:] == half - 1).all()
    growth = (distance / exact) ** (np.arange(half - exact) / (half - exact))
    first = np.searchsorted(before, np.arange(exact, half))
    np.testing.assert_array_equal(first, np.ceil(exact * growth - 1e-6))


def count(net):
    return sum(math.prod(leaf.shape) for leaf in flatten(jax.eval_shape(net.init, jax.random.key(0))).values())


def test_published_sizes():
    """Those of ViT-L/14's encoder of text, and of the encoder of T5 version 1.1 XXL; a projection is one matrix."""
    assert count(clip()) == 123_060_480
    assert count(clip(projection=512, depth=1)) - count(clip(depth=1)) == 768 * 512
    assert count(t5()) == 4_762_310_656


def test_a_text_beyond_the_positions_is_refused():
    with pytest.raises(ValueError, match=r"^a text of 9 tokens: this encoder has 8 positions"):
        encode("clip", np.zeros((1, 9), np.int32), np.ones((1, 9), bool))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (clip, {"dtype": "float16"}, "dtype='float16': choose from float32, bfloat16"),
        (clip, {"activation": "silu"}, "activation='silu': choose from quick_gelu, gelu"),
        (clip, {"heads": 7}, "heads=7 must divide width=768"),
        (clip, {"depth": 0}, "depth=0: a whole number of at least 1"),
        (clip, {"projection": 0}, "projection=0: a whole number of at least 1"),
        (clip, {"skip": 12}, "skip=12: from 0 to 11 of the 12 layers can be left out"),
        (t5, {"skip": -1}, "skip=-1: from 0 to 23 of the 24 layers can be left out"),
        (t5, {"dtype": "int8"}, "dtype='int8': choose from float32, bfloat16"),
        (t5, {"hidden": 0}, "hidden=0: a whole number of at least 1"),
        (t5, {"feed_forward": "silu"}, "feed_forward='silu': choose from relu, gated-gelu"),
        (t5, {"buckets": 6}, "buckets=6: a multiple of 4, half of them for each direction and half of those exact"),
        (t5, {"distance": 8}, "distance=8 must be above a quarter of buckets=32"),
    ],
)
def test_bad_options(make, options, message):
    with pytest.raises(ValueError) as refusal:
        make(**options)
    assert str(refusal.value) == message
