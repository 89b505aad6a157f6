"""FLOPs: closed forms, nesting, and the compiler's own count of an unscanned network."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from maskdiff_jax.train.flops import count_flops, training_flops
from maskdiff_jax.train.parallel import make_mesh


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def square(x):
    return x @ x


@jax.custom_vjp
def ruled(x):
    return x @ x


ruled.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x + x @ g,))

N = 6
ONE = 2 * N**3  # one product of two N×N matrices


def convolve(image, kernel, *args, **kwargs):
    return lax.conv_general_dilated(image, kernel, *args, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs)


def test_products():
    assert count_flops(jnp.matmul, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
    assert count_flops(jnp.matmul, array(7, 3, 4), array(7, 4, 5)) == 7 * 2 * 3 * 4 * 5
    assert count_flops(lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b), array(2, 3, 5, 4), array(2, 3, 6, 4)) == (
        2 * 2 * 3 * 5 * 6 * 4
    )
    assert count_flops(lambda x: jnp.tanh(x) + x, array(8, 8)) == 0
    assert training_flops(jnp.matmul, array(3, 4), array(4, 5)) == 3 * 120


def test_attention():
    b, q, k, h, d = 2, 5, 7, 3, 4
    keys = array(b, k, h, d)
    assert count_flops(jax.nn.dot_product_attention, array(b, q, h, d), keys, keys) == 2 * (2 * b * h * q * k * d)


NESTED = {
    "jit": (jax.jit(square), ONE),
    "remat": (jax.checkpoint(square), ONE),
    "custom_vjp": (ruled, ONE),
    "custom_jvp inside": (lambda x: jax.nn.relu(x @ x), ONE),
    "scan": (lambda x: lax.scan(lambda c, _: (c @ x, c @ c), x, length=5), 5 * 2 * ONE),
    "scan of scan": (
        lambda x: lax.scan(lambda c, _: (lax.fori_loop(0, 3, lambda _, y: y @ x, c), 0), x, length=5),
        15 * ONE,
    ),
    "dearest branch": (lambda x: lax.cond(x[0, 0] > 0, lambda y: y, lambda y: y @ y @ y, x), 2 * ONE),
    "while body once": (lambda x: lax.while_loop(lambda y: y[0, 0] > 0, square, x), ONE),
    "vmap": (lambda x: jax.vmap(lambda row: x @ row)(x), ONE),
    "gradient": (jax.grad(lambda x: (x @ x).sum()), 3 * ONE),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested(name):
    function, expected = NESTED[name]
    assert count_flops(function, array(N, N)) == expected


def test_all_shards_count():
    part = PartitionSpec("data")
    sharded = jax.shard_map(lambda x, w: x @ w, mesh=make_mesh(), in_specs=(part, PartitionSpec()), out_specs=part)
    assert count_flops(sharded, array(16, 4), array(4, 5)) == 2 * 16 * 4 * 5


CONVOLUTIONS = {  # arguments, and by hand: image positions × taps on real input, per pair of channels
    "valid": (((1, 1), "VALID"), {}, (6 * 6) * 9),
    "same": (((1, 1), "SAME"), {}, (3 * 8 - 2) ** 2),
    "stride 2": (((2, 2), "SAME"), {}, (3 * 4 - 1) ** 2),
    "transposed, stride 2": (((1, 1), ((1, 2), (1, 2))), {"lhs_dilation": (2, 2)}, (3 * 8 - 1) ** 2),
    "dilated kernel": (((1, 1), "VALID"), {"rhs_dilation": (2, 2)}, (4 * 4) * 9),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    args, options, positions = CONVOLUTIONS[name]
    counted = count_flops(lambda x, w: convolve(x, w, *args, **options), array(2, 8, 8, 4), array(3, 3, 4, 5))
    assert counted == 2 * 2 * 4 * 5 * positions


def test_grouped_and_patch_convolutions():
    grouped = lambda x, w: convolve(x, w, (1, 1), "VALID", feature_group_count=4)  # noqa: E731
    assert count_flops(grouped, array(2, 8, 8, 4), array(3, 3, 1, 8)) == 2 * 2 * 36 * 9 * 8
    patches = lambda x, w: convolve(x, w, (2, 2), "VALID")  # noqa: E731
    assert count_flops(patches, array(2, 8, 8, 3), array(2, 2, 3, 16)) == 2 * 2 * 16 * (2 * 2 * 3) * 16


def network(params, x):
    """Convolution, attention and MLP, none of them in a loop."""
    x = jax.nn.silu(convolve(x, params["conv"], (1, 1), "SAME"))
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    q, k, v = (y.reshape(b, h * w, 2, c // 2) for y in jnp.split(x @ params["qkv"], 3, axis=-1))
    x = x + jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    return jnp.mean(jnp.square(x + jax.nn.gelu(x @ params["up"]) @ params["down"]))


def test_agrees_with_the_compiler_on_a_network():
    c = 64
    params = {"conv": array(3, 3, c, c), "qkv": array(c, 3 * c), "up": array(c, 4 * c), "down": array(4 * c, c)}
    image = array(2, 8, 8, c)
    compiler = jax.jit(network).lower(params, image).compile().cost_analysis()["flops"]
    assert count_flops(network, params, image) == pytest.approx(compiler, rel=0.1)
    both = jax.grad(network, argnums=(0, 1))  # the rule of 3 counts every product's two gradients, the image's too
    backward = jax.jit(both).lower(params, image).compile().cost_analysis()["flops"]
    assert training_flops(network, params, image) == pytest.approx(backward, rel=0.1)
