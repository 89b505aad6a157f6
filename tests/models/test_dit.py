"""What is particular to the DiT: its published sizes, its second head, its precision and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.dit import PRESETS, dit
from maskdiff_jax.types import Cond
from tests.models.perturb import random_params

TINY = {"width": 16, "depth": 1, "heads": 2}


# The published counts (Peebles & Xie 2023, code release), which include the 256 fixed positions.
@pytest.mark.parametrize(
    ("preset", "published"), {"S": 32_963_360, "B": 130_512_416, "L": 458_102_816, "XL": 675_129_632}.items()
)
def test_parameter_counts(preset, published):
    model = dit((32, 32, 4), 1000, preset=preset, learned_variance=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    positions = 256 * PRESETS[preset]["width"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) + positions == published


def test_explicit_sizes_override_the_preset():
    def widths(**options):
        shapes = jax.eval_shape(dit((8, 8, 1), **options).init, jax.random.key(0))
        blocks = sum(name.startswith("block") for name in shapes)
        return shapes["embed"]["kernel"].shape[1], blocks, shapes["block_00"]["mlp"]["hidden"]["kernel"].shape[1]

    assert widths(preset="S") == (384, 12, 1536)
    assert widths(preset="S", depth=2) == (384, 2, 1536)
    assert widths(preset="S", width=24, heads=3, mlp_ratio=2.0) == (24, 12, 48)


def test_initialisation_follows_the_paper():
    params = jax.jit(dit((8, 8, 1), 50, width=64, depth=1, heads=2).init)(jax.random.key(0))
    block = params["block_00"]
    limit = np.sqrt(6 / (64 + 256))
    hidden = np.asarray(block["mlp"]["hidden"]["kernel"])
    assert np.abs(hidden).max() <= limit
    np.testing.assert_allclose(hidden.std(), limit / np.sqrt(3), rtol=0.05)
    level, label = params["level"], params["conditions_label"]
    for kernel in (level["hidden"]["kernel"], level["out"]["kernel"], label["table"]["embedding"]):
        np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.1)
    for zeros in (block["modulation"], params["final"]):
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(zeros))


def test_learned_variance_is_a_coefficient_in_0_1():
    model = dit((8, 8, 2), learned_variance=True, **TINY)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    apply = jax.jit(model.apply)
    fresh = random_params(model.init, scale=0.0)
    out = apply(fresh, x, jnp.zeros(2), Cond())
    np.testing.assert_array_equal(out.variance, jnp.full_like(out.prediction, 0.5))

    params = random_params(model.init, scale=0.3)
    out = apply(params, x, jnp.zeros(2), Cond())
    assert out.variance.min() == 0 and out.variance.max() == 1 and out.prediction.max() > 1
    # The head has its channels in the order (prediction, variance): its bias is [p·p·2c].
    bias = params["final"]["linear"]["bias"].reshape(2, 2, 4).copy()
    bias[..., 2:] += 0.1
    params["final"]["linear"]["bias"] = bias.ravel()
    moved = apply(params, x, jnp.zeros(2), Cond())
    np.testing.assert_array_equal(moved.prediction, out.prediction)
    inside = (out.variance > 0) & (out.variance < 0.9)
    np.testing.assert_allclose(moved.variance[inside], out.variance[inside] + 0.05, atol=1e-5)
    assert inside.sum() > 10


def test_the_level_scale_multiplies_the_level():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    continuous, discrete = (dit((8, 8, 1), level_scale=scale, **TINY) for scale in (1000.0, 1.0))
    params = random_params(continuous.init)
    a = jax.jit(continuous.apply)(params, x, jnp.array([0.25, 0.5]), Cond()).prediction
    b = jax.jit(discrete.apply)(params, x, jnp.array([250.0, 500.0]), Cond()).prediction
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a[0] - a[1]).max() > 1e-3


def test_one_patch_of_an_image_is_one_token_in_row_order():
    """A network whose only free part is the linear path answers each token from its own patch, in its place."""
    model = dit((4, 6, 1), **TINY)
    params = random_params(model.init, scale=0.0)
    params["embed"]["kernel"] = np.eye(4, 16, dtype=np.float32)
    params["final"]["linear"]["kernel"] = np.eye(16, 4, dtype=np.float32)
    black = np.zeros((1, 4, 6, 1), np.float32)
    dot = black.copy()
    dot[0, 3, 2, 0] = 5.0
    apply = jax.jit(model.apply)
    base, hit = (apply(params, x, jnp.zeros(1), Cond()).prediction for x in (black, dot))
    changed = np.abs(hit - base).sum(axis=(2, 3, 4))[0]
    np.testing.assert_array_equal(np.nonzero(changed)[0], [4])  # row 1, column 1 of a grid of 2×3
    assert np.argmax(np.abs(hit - base)[0, 4].ravel()) == 2  # row 1, column 0 of its patch
