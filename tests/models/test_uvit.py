"""What is particular to the U-ViT: its published counts, its formula, and its conditions as tokens."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import tokens
from maskdiff_jax.models.uvit import uvit
from maskdiff_jax.types import Cond, CondShape, Model, Tokens
from tests.models.perturb import random_params

TINY = {"width": 16, "depth": 3, "heads": 2}
SHAPE, PATCH, B = (8, 12, 4), 2, 16  # the wavelets of a grey image of 16×24; a grid of 4×6
SEGMENTS = {"patch": PATCH, "segments": (1, 3), "qkv_bias": "qv", **TINY}
LEVEL = jnp.linspace(0.1, 0.9, B)
IMAGES = jax.random.normal(jax.random.key(0), (B, *SHAPE))


def shapes(*args, **options):
    return jax.tree.map(lambda x: x.shape, jax.eval_shape(uvit(*args, **options).init, jax.random.key(0)))


@cache
def network(classes: int | CondShape = 0, **options) -> tuple[Model, dict]:
    """A model whose apply is compiled, and its parameters away from their initialisation."""
    model = uvit(SHAPE, classes, **{**TINY, **options})
    run = jax.jit(lambda params, x, level, cond, visible: model.apply(params, x, level, cond, visible=visible))

    def apply(params, x, level, cond, *, visible=None, train=False, key=None):
        return run(params, x, level, cond, visible)

    params = random_params(model.init, scale=0.1)  # norms get their scale of 1 back: else they silence the network
    is_scale = lambda path: path[-1] == jax.tree_util.DictKey("scale")  # noqa: E731
    return model._replace(apply=apply), jax.tree.map_with_path(lambda path, x: x + is_scale(path), params)


def halves(seed: int):
    """12 of 24 ids an image, in no order."""
    return jax.vmap(lambda key: jax.random.permutation(key, 24)[:12])(jax.random.split(jax.random.key(seed), B))


# 46.26, 44.29, 102.42 and 233.40 M (Lei et al. 2023, code). Of a width d a block has 12d² + 10d, half of them 2d² + d
# more; then come positions, the patch embedding and the head with biases, and one last norm.
@pytest.mark.parametrize(
    ("image_shape", "options", "published"),
    [
        ((256, 256, 3), {"preset": "small"}, 46_258_224),
        ((64, 64, 3), {"preset": "small"}, 44_292_144),
        ((256, 256, 3), {"preset": "base"}, 102_417_456),
        ((128, 128, 12), {"preset": "large", "segments": (3, 9)}, 233_399_488),
    ],
)
def test_parameter_counts(image_shape, options, published):
    params = shapes(image_shape, patch=4, **options)
    assert sum(math.prod(x) for x in jax.tree.leaves(params, is_leaf=lambda x: type(x) is tuple)) == published


def test_positions_and_heads_of_the_published_wavelet_network():
    params = shapes((128, 128, 12), preset="large", patch=4, segments=(3, 9))
    rows = [params[name] for name in ("extra_positions", "positions_0", "positions_1")]
    assert rows == [(1, 1024), (32, 32, 1024), (32, 32, 1024)]
    assert sum(math.prod(x) // 1024 for x in rows) == 2049
    assert (params["head_0"]["bias"], params["head_1"]["bias"]) == ((48,), (144,))


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (12, 13), (13, 13), (16, 17), (17, 17)])
def test_depth_counts_blocks_around_the_middle_one(depth, blocks):
    params = shapes((8, 8, 1), width=16, heads=2, depth=depth)
    assert sum("attention" in value for value in params.values() if isinstance(value, dict)) == blocks
    assert sum("skip" in value for value in params.values() if isinstance(value, dict)) == depth // 2


def test_explicit_sizes_override_the_preset():
    params = shapes((8, 12, 1), 5, preset="large", width=24, heads=3, depth=2, mlp_ratio=2.0)
    assert params["middle"]["mlp_hidden"]["kernel"] == (24, 48)
    assert params["middle"]["attention"]["value_bias"] == (24,)
    assert (params["positions"], params["extra_positions"]) == ((4, 6, 24), (2, 24))
    assert "value_bias" not in shapes((8, 8, 1), preset="large", qkv_bias="none", **TINY)["middle"]["attention"]


def test_initialisation_follows_the_published_code():
    params = jax.jit(uvit((8, 8, 4), width=64, depth=2, heads=2, qkv_bias="qv").init)(jax.random.key(0))
    for path, value in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "bias" in name or "scale" in name:
            np.testing.assert_array_equal(value, 1.0 if "scale" in name else 0.0)
        else:
            np.testing.assert_allclose(np.std(value), 0.02, rtol=0.25 if value.size < 200 else 0.06, err_msg=name)


def reference(params, patches, grids_ids, level, label, heads):
    """The published network in NumPy, on the visible patches [b, k, p·p·c] of each segment with their ids."""
    erf = np.vectorize(math.erf)

    def linear(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0)

    def norm(x, layer):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    def attention(x, layer):
        qkv = linear(x, layer["qkv"])
        width = x.shape[-1]
        if "query_bias" in layer:
            qkv[..., :width] += layer["query_bias"]
            qkv[..., 2 * width :] += layer["value_bias"]
        q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in np.split(qkv, 3, axis=-1))
        weights = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // heads))
        h = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
        return linear(h.reshape(x.shape), layer["out"])

    def block(x, layer):
        x = x + attention(norm(x, layer["norm"]), layer["attention"])
        h = linear(norm(x, layer["mlp_norm"]), layer["mlp_hidden"])
        return x + linear(h * (1 + erf(h / math.sqrt(2))) / 2, layer["mlp_out"])

    width = params["extra_positions"].shape[1]
    angles = 1000 * np.asarray(level)[:, None] * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    extra = [np.concatenate([np.cos(angles), np.sin(angles)], axis=1)[:, None]]
    if label is not None:
        extra.append(params["conditions_label_token"]["table"]["embedding"][label][:, None])
    parts = [np.concatenate(extra, axis=1) + params["extra_positions"]]
    suffixes = [""] if "embed" in params else [f"_{i}" for i in range(len(patches))]
    for suffix, part, ids in zip(suffixes, patches, grids_ids, strict=True):
        places = params[f"positions{suffix}"].reshape(-1, width)[ids]
        parts.append(linear(part.reshape(*ids.shape, -1), params[f"embed{suffix}"]) + places)
    x, skips = np.concatenate(parts, axis=1), []
    half = sum(name.startswith("in_") for name in params)
    for i in range(half):
        skips.append(x := block(x, params[f"in_{i:02d}"]))
    x = block(x, params["middle"])
    for i in range(half):
        layer = params[f"out_{i:02d}"]
        x = block(linear(np.concatenate([x, skips.pop()], axis=-1), layer["skip"]), layer)
    ends = np.cumsum([part.shape[1] for part in parts])
    outs = np.split(norm(x, params["norm"]), ends[:-1], axis=1)[1:]
    return [linear(out, params[f"head{suffix}"]) for out, suffix in zip(outs, suffixes, strict=True)]


@pytest.mark.parametrize(
    ("classes", "options"),
    [(3, {"patch": PATCH, "depth": 5}), (0, SEGMENTS)],
    ids=["labels", "segments"],
)
def test_it_follows_its_formula(classes, options):
    model, params = network(classes, **options)
    segments = tokens.segments(model.tokens)
    ids = tuple(halves(i) for i in range(len(segments)))
    label = np.arange(B) % 3 if classes else None
    visible = ids[0] if isinstance(model.tokens, Tokens) else ids
    out = model.apply(params, IMAGES, LEVEL, Cond(label=None if label is None else jnp.asarray(label)), visible=visible)
    visible_patches = [np.asarray(tokens.gather(p, i)) for p, i in zip(tokens.cut(IMAGES, segments), ids, strict=True)]
    exact = jax.tree.map(np.float64, params)
    expected = reference(exact, visible_patches, [np.asarray(i) for i in ids], LEVEL, label, TINY["heads"])
    predictions = out.prediction if isinstance(out.prediction, tuple) else (out.prediction,)
    for prediction, wanted, part in zip(predictions, expected, visible_patches, strict=True):
        np.testing.assert_allclose(prediction, wanted.reshape(part.shape), atol=1e-4)
        assert np.std(wanted) > 0.1


def test_without_positions_a_network_sees_a_set_of_patches():
    """Equal patches at other places get equal answers; with positions they do not."""
    order = np.random.default_rng(0).permutation(24)
    grid = (4, 6)
    moved = tokens.unpatchify(tokens.patchify(IMAGES, PATCH)[:, order], grid)

    def gap(positions: bool) -> float:
        model, params = network(positions=positions)
        assert ("positions" in params) == positions and "extra_positions" in params
        here, there = (model.apply(params, x, LEVEL, Cond()).prediction for x in (IMAGES, moved))
        return float(np.abs(here[:, order] - there).max())

    assert gap(False) < 1e-5 and gap(True) > 1e-2


def test_masked_condition_tokens_do_not_matter():
    model, params = network(CondShape(text_length=3, text_width=5), conditioning=_Hashable(text={}))
    text = jax.random.normal(jax.random.key(1), (B, 3, 5))
    mask = jnp.tile(jnp.array([[True, False, True]]), (B, 1))

    def answer(text):
        return model.apply(params, IMAGES, LEVEL, Cond(text=text, text_mask=mask)).prediction

    np.testing.assert_array_equal(answer(text.at[:, 1].add(3.0)), answer(text))
    assert np.abs(answer(text.at[:, 2].add(3.0)) - answer(text)).max() > 1e-3
    assert params["extra_positions"].shape == (5, 16)  # level, the learned null of text, three words


class _Hashable(dict):
    """Options as a key of the cache."""

    def __hash__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(repr(self))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, r"preset='huge': choose from small, base, large"),
        ({"qkv_bias": "qkv"}, r"qkv_bias='qkv': choose from none, qv"),
        ({"dtype": "float16"}, r"dtype='float16': choose from float32, bfloat16"),
        ({"patch": 3}, r"patch=3 does not divide an image of 8×12"),
        ({"width": 30, "heads": 4}, r"width=30 must be divisible by heads=4"),
        ({"depth": 0}, r"must be positive: depth=0"),
        ({"segments": (1, 2)}, r"segments=\(1, 2\): channel counts ≥ 1 that add up to the 4 of the image"),
        ({"segments": (4, 0)}, r"segments=\(4, 0\): channel counts"),
        ({"segments": ()}, r"segments=\(\): channel counts"),
        ({"classes": 3, "conditioning": {"label": {}}}, r"'label' gives a vector, and uvit .* use label_token"),
        ({"conditioning": {"pose": {}}}, r"conditioning='pose': choose from label"),
    ],
)
def test_errors_name_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message) as error:
        uvit(SHAPE, **options)
    assert "\n" not in str(error.value)
