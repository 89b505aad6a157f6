"""Cross-attention and relative positions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.models import layers
from maskdiff_jax.models.attention import CrossAttention, RelativeAttention, relative_bias
from tests.models.perturb import random_params

IDS = np.array([[0, 2, 5], [1, 2, 3]])
MASK = jnp.array([[True, True, True, False], [True, False, True, False]])


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_cross_attention_is_its_formula():
    x, tokens = (jax.random.normal(jax.random.key(i), (2, n, 8)) for i, n in ((0, 3), (1, 4)))
    module = CrossAttention(heads=2)
    p = random_params(lambda key: module.init(key, x, tokens)["params"], scale=0.5)
    dense = lambda name, y: np.asarray(y) @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    out = jax.jit(module.apply)({"params": p}, x, tokens, MASK)
    for b in range(2):
        kept = np.asarray(tokens[b])[np.asarray(MASK[b])]  # masked tokens are as good as absent
        q, (k, v) = dense("query", x[b]), np.split(dense("key_value", kept), 2, axis=-1)
        heads = [slice(0, 4), slice(4, 8)]
        h = np.concatenate([softmax(q[:, s] @ k[:, s].T / 2) @ v[:, s] for s in heads], axis=-1)
        np.testing.assert_allclose(out[b], dense("out", h), atol=1e-5)


def test_cross_attention_to_nothing_gives_its_bias_and_finite_gradients():
    x, tokens = (jax.random.normal(jax.random.key(i), (2, n, 8)) for i, n in ((0, 3), (1, 4)))
    module, nothing = CrossAttention(heads=2), MASK.at[0].set(False)
    params = random_params(lambda key: module.init(key, x, tokens)["params"], scale=0.5)

    @jax.jit
    def both(x):
        f = lambda x: module.apply({"params": params}, x, tokens, nothing)  # noqa: E731
        return f(x), jax.grad(lambda x: jnp.sum(jnp.square(f(x))))(x)

    out, gradient = both(x)
    np.testing.assert_allclose(out[0], np.tile(params["out"]["bias"], (3, 1)), atol=1e-7)
    assert np.all(gradient[0] == 0) and np.all(np.isfinite(gradient)) and np.any(gradient[1] != 0)


def test_relative_bias_reads_the_table_at_the_offset():
    table = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    bias = np.asarray(relative_bias(jnp.asarray(table), jnp.asarray(IDS), (2, 3)))
    assert bias.shape == (2, 2, 3, 3)
    for b, q, k in np.ndindex(2, 3, 3):
        row, column = (np.subtract(*[f(IDS[b, i], 3) for i in (q, k)]) for f in (np.floor_divide, np.mod))
        np.testing.assert_array_equal(bias[b, :, q, k], table[1 + row, 2 + column])


def test_a_table_that_is_linear_in_the_offset_stays_so_on_another_grid():
    """In cells of the trained grid; beyond its border the table's last value holds."""
    row, column = np.meshgrid(np.arange(-3, 4), np.arange(-2, 3), indexing="ij")
    table = np.stack([row, column], axis=-1).astype(np.float32)  # of a 4 × 3 grid
    grid = (2, 6)
    ids = np.arange(12)
    bias = np.asarray(relative_bias(jnp.asarray(table), jnp.asarray(ids)[None], grid))[0]
    rows_apart, columns_apart = (np.subtract.outer(f(ids, 6), f(ids, 6)) for f in (np.floor_divide, np.mod))
    np.testing.assert_allclose(bias[0], rows_apart * 2, atol=1e-6)
    np.testing.assert_allclose(bias[1], np.clip(columns_apart / 2, -2, 2), atol=1e-6)


def test_relative_attention_adds_the_bias_to_the_logits():
    """Zero: plain attention. One large entry: each token attends to the one at that offset, others to all alike."""
    x = jax.random.normal(jax.random.key(0), (1, 7, 8))  # one token without a place before a grid of 2 × 3
    ids, mask = jnp.arange(6)[None], jnp.array([[False] + [True] * 6])
    module, plain = RelativeAttention(2, (2, 3)), layers.Attention(2)
    params = random_params(lambda key: module.init(key, x, ids)["params"], scale=0.3)
    apply = jax.jit(lambda params, mask: module.apply({"params": params}, x, ids, mask))
    bare = {name: params[name] for name in ("qkv", "out")}
    flat = {**params, "table": np.zeros_like(params["table"])}
    for m in (jnp.ones_like(mask), mask):
        np.testing.assert_allclose(apply(flat, m), plain.apply({"params": bare}, x, m), atol=1e-5)

    peak = np.zeros((3, 5, 2), np.float32)
    peak[1, 2 + 1] = 100.0  # the query is one column to the right of the key
    out = apply({**params, "table": peak}, mask)[0]
    values = (np.asarray(x[0]) @ params["qkv"]["kernel"] + params["qkv"]["bias"])[:, 16:]
    expected = values @ params["out"]["kernel"] + params["out"]["bias"]
    for query in (1, 2, 4, 5):  # tokens with a left neighbour, of the row
        np.testing.assert_allclose(out[1 + query], expected[query], atol=1e-5)
