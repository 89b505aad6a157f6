"""What is particular to the mmDiT: its sizes against the DiT's, its block against its formula, its second stream."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.dit import PRESETS, dit
from maskdiff_jax.models.mmdit import Block, mmdit
from maskdiff_jax.tokens import sincos_2d
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

TINY = {"width": 16, "depth": 2, "heads": 2}
TEXT = CondShape(classes=3, text_length=3, text_width=5)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def count(model) -> int:
    return sum(x.size for x in jax.tree.leaves(shapes(model)))


def second_stream(width: int, depth: int, heads: int) -> int:
    """Of a block: 6 modulations, 3 projections and one back, an MLP, 2 scales per head; keys and values in the last."""
    full = 6 * (width + 1) * width + 4 * (width + 1) * width + (8 * width + 5) * width + 2 * (width // heads)
    last = 2 * (width + 1) * width + 2 * (width + 1) * width + width // heads
    return (depth - 1) * full + last


def test_the_parameters_are_those_of_a_dit_two_scales_a_block_and_the_second_stream():
    options: dict[str, int] = {**PRESETS["B"], "depth": 2}
    single = count(dit((8, 8, 4), **options)) + 2 * 2 * 64
    assert count(mmdit((8, 8, 4), **options)) == single
    assert count(mmdit((8, 8, 4), 1000, **options)) == single + second_stream(**options) + 1001 * 768


def test_parameter_count_of_xl():
    """On 32×32×4 latents of 1000 classes; the paper that uses this size gives none."""
    parameters = count(mmdit((32, 32, 4), 1000, preset="XL"))
    assert parameters == 1_325_576_392
    # The published count of the DiT, less its positions, second output head and labels (tests of the DiT).
    single = 675_129_632 - 256 * 1152 - 16 * 1153 - 1001 * 1152
    assert parameters == single + 28 * 2 * 72 + second_stream(**PRESETS["XL"]) + 1001 * 1152


def test_explicit_sizes_override_the_preset():
    params = shapes(mmdit((8, 8, 1), preset="S", width=24, heads=3, depth=2, mlp_ratio=2.0))
    assert params["embed"]["kernel"].shape == (4, 24) and "block_01" in params and "block_02" not in params
    assert params["block_00"]["image_out"]["mlp"]["hidden"]["kernel"].shape == (24, 48)
    assert params["block_00"]["image_in"]["query_norm"]["scale"].shape == (8,)


def test_without_condition_tokens_there_is_one_stream():
    vector = shapes(mmdit((8, 8, 1), 3, conditioning={"label": {}}, **TINY))
    token = shapes(mmdit((8, 8, 1), 3, **TINY))
    assert set(vector["block_00"]) == set(vector["block_01"]) == {"image_in", "image_out"}
    assert set(token["block_00"]) == {"image_in", "image_out", "context_in", "context_out"}
    assert set(token["block_01"]) == {"image_in", "image_out", "context_in"}
    assert "query_norm" not in token["block_01"]["context_in"]


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def modulated(x, shift, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def modulation(c, n, params):
    return np.split(linear(silu(c), params["linear"])[:, None], n, axis=-1)


def entered(x, c, params, heads):
    """Normalised queries (or none), keys, and values, [b, heads, n, w / heads]."""
    h = linear(modulated(x, *modulation(c, 2, params["modulation"])), params["project"])
    *compared, value = np.moveaxis(h.reshape(*x.shape[:2], -1, heads, x.shape[-1] // heads), (2, 3), (0, 2))
    scales = [params[name]["scale"] for name in ("query_norm", "key_norm") if name in params]
    compared = [q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) * s for q, s in zip(compared, scales, strict=True)]
    return [*compared, value]


def left(x, h, c, params):
    gate, shift, scale, mlp_gate = modulation(c, 4, params["modulation"])
    x = x + gate * linear(h, params["out"])
    hidden = gelu(linear(modulated(x, shift, scale), params["mlp"]["hidden"]))
    return x + mlp_gate * linear(hidden, params["mlp"]["out"])


@pytest.mark.parametrize("last", [False, True])
def test_a_block_follows_its_formula(last):
    """Joint attention of two streams with weights of their own; a masked token has no key for anybody."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, context = jax.random.normal(keys[0], (2, 4, 8)), jax.random.normal(keys[1], (2, 3, 8))
    c, mask = jax.random.normal(keys[2], (2, 8)), jnp.array([[True, False, True], [False, False, True]])
    block = Block(2, 12, "float32", last=last)
    params = random_params(lambda key: block.init(key, (x, context), c, mask)["params"], scale=0.5)
    out, out_context = jax.jit(block.apply)({"params": params}, (x, context), c, mask)

    p = jax.tree.map(np.float64, params)
    x, context, c = np.float64(x), np.float64(context), np.float64(c)
    image, other = entered(x, c, p["image_in"], 2), entered(context, c, p["context_in"], 2)
    assert len(other) == 3 - last
    query = image[0] if last else np.concatenate([image[0], other[0]], axis=2)
    key, value = (np.concatenate([image[i], other[i]], axis=2) for i in (-2, -1))
    seen = np.concatenate([np.ones((2, 4), bool), mask], axis=1)[:, None, None]
    weights = np.exp(np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(4)) * seen
    h = np.einsum("bhqk,bhkd->bqhd", weights / weights.sum(-1, keepdims=True), value).reshape(2, -1, 8)
    np.testing.assert_allclose(out, left(x, h[:, :4], c, p["image_out"]), atol=1e-4)
    expected = context if last else left(context, h[:, 4:], c, p["context_out"])
    np.testing.assert_allclose(out_context, expected, atol=1e-4)


@cache
def conditioned():
    """A network of a label's vector and text tokens, a draw of its parameters, and its jitted predictions."""
    model = mmdit((4, 6, 1), TEXT, conditioning={"label": {}, "text": {}}, **TINY)
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    apply = jax.jit(lambda params, cond: model.apply(params, x, jnp.array([0.2, 0.7]), cond).prediction)
    return lambda scale=0.3: random_params(model.init, scale), apply


TOKENS = jax.random.normal(jax.random.key(1), (2, 3, 5))
MASK = jnp.array([[True, True, False], [True, False, False]])
COND = Cond(label=jnp.array([0, 2]), text=TOKENS, text_mask=MASK)


def test_masked_tokens_are_attended_to_by_nobody():
    draw, apply = conditioned()
    params, seen = draw(), MASK[..., None]
    base = apply(params, COND)
    np.testing.assert_allclose(apply(params, COND._replace(text=jnp.where(seen, TOKENS, 100.0))), base, atol=1e-5)
    assert np.abs(apply(params, COND._replace(text=jnp.where(seen, -TOKENS, TOKENS))) - base).max() > 1e-3
    assert np.abs(apply(params, COND._replace(text_mask=jnp.ones((2, 3), bool))) - base).max() > 1e-3


def test_the_order_of_condition_tokens_does_not_matter():
    draw, apply = conditioned()
    order = jnp.array([2, 0, 1])
    moved = COND._replace(text=TOKENS[:, order], text_mask=MASK[:, order])
    np.testing.assert_allclose(apply(draw(), moved), apply(draw(), COND), atol=1e-5)


def test_the_size_of_queries_and_keys_does_not_matter():
    """The root mean square takes it out; that of the values stays."""
    draw, apply = conditioned()
    base = apply(draw(), COND)

    def scaled(columns):
        params = draw()
        project = params["block_00"]["image_in"]["project"]
        for name in project:
            project[name] = project[name] * np.where(columns, 3, 1).astype(np.float32)
        return apply(params, COND)

    is_value = np.arange(3 * 16) >= 2 * 16
    np.testing.assert_allclose(scaled(~is_value), base, atol=1e-4)
    assert np.abs(scaled(is_value) - base).max() > 1e-2


def test_a_vector_of_the_condition_modulates_both_streams():
    """With the modulations of one stream alone free to act, the label still changes the answer."""
    draw, apply = conditioned()

    def effect(stream):
        params = draw(0.5)
        for block in (params["block_00"], params["block_01"], {"final": params["final"]}):
            for name, part in block.items():
                if not name.startswith(stream):
                    part["modulation"]["linear"]["kernel"] *= 0  # the biases stay
        return np.abs(apply(params, COND) - apply(params, COND._replace(label=jnp.array([1, 1])))).max()

    assert min(effect("image"), effect("context")) > 1e-3
    assert effect("neither") == 0


def test_initialisation_follows_the_dit():
    """Every modulation and the last layer start at 0, the scales of queries and keys at 1."""
    params = jax.jit(mmdit((4, 4, 1), 3, width=16, depth=1, heads=2).init)(jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "modulation" in name or "final" in name:
            assert np.all(np.asarray(leaf) == 0), name
        elif name.endswith("['scale']"):
            assert np.all(np.asarray(leaf) == 1), name
        elif name.endswith("['kernel']") and "level" not in name:
            limit = np.sqrt(6 / sum(leaf.shape))
            assert 0.8 * limit < np.abs(leaf).max() <= limit, name


def linear_path(trained_grid=None, learned_variance=False):
    """The answers of a network without blocks' effect, to an image of 0: what is left are the positions."""
    model = mmdit((4, 6, 1), width=16, depth=1, heads=2, trained_grid=trained_grid, learned_variance=learned_variance)
    params = random_params(model.init, scale=0.0)
    params["final"]["linear"]["kernel"] = np.eye(16, 8 if learned_variance else 4, dtype=np.float32)
    return jax.jit(model.apply)(params, jnp.zeros((1, 4, 6, 1)), jnp.zeros(1), Cond())


@pytest.mark.parametrize("trained", [None, (4, 4)])
def test_positions_are_sines_and_cosines_interpolated_into_the_trained_grid(trained):
    positions = np.float64(sincos_2d(16, (2, 3), trained=trained))
    expected = modulated(positions, 0, 0)[:, :4]
    np.testing.assert_allclose(linear_path(trained).prediction.reshape(6, 4), expected, atol=1e-5)


def test_learned_variance_is_a_coefficient_in_0_1():
    out = linear_path(learned_variance=True)
    both = modulated(np.float64(sincos_2d(16, (2, 3))), 0, 0)[:, :8].reshape(6, 2, 2, 2)  # channels: prediction, v
    np.testing.assert_allclose(out.prediction[0, ..., 0], both[..., 0], atol=1e-5)
    np.testing.assert_allclose(out.variance[0, ..., 0], np.clip((both[..., 1] + 1) / 2, 0, 1), atol=1e-5)
    assert out.variance.min() == 0 and out.variance.max() == 1
