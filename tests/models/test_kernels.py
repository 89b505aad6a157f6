"""Attention's implementations against one another, and the rule and the measurement that choose among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from maskdiff_jax.models import MODELS, kernels
from maskdiff_jax.models.kernels import Case, Kernel
from maskdiff_jax.train.flops import count_flops
from maskdiff_jax.train.parallel import make_mesh

LONG = Case("tpu", 2, 4, kernels.LONG, kernels.LONG, 64, "bfloat16")
RULES = {
    "cpu": (LONG._replace(platform="cpu"), "xla"),
    "tpu": (LONG, "flash"),
    "tpu, few tokens": (LONG._replace(queries=256, keys=256), "xla"),
    "tpu, one query": (LONG._replace(queries=1), "xla"),
    "tpu, wide heads": (LONG._replace(width=192), "xla"),
    "tpu, divided by the compiler": (LONG._replace(devices=4), "xla"),
    "gpu, float32": (LONG._replace(platform="gpu", dtype="float32"), "xla"),
    "gpu, odd heads": (LONG._replace(platform="gpu", width=36), "xla"),
    "gpu, processes": (LONG._replace(platform="gpu", processes=2), "cudnn"),
    "gpu, processes, few tokens": (LONG._replace(platform="gpu", processes=2, keys=256), "xla"),
}


@pytest.mark.parametrize("rule", RULES)
def test_without_measuring_the_choice_is_a_rule(rule):
    case, name = RULES[rule]
    assert kernels.choose(case) == (name, {})


def refuses(query, key, value, mask, bias):
    raise NotImplementedError("no such kernel here")


def passes(query, key, value, mask, bias):
    """Not attention: what is to be chosen for its speed."""
    return query + value


def thrice(query, key, value, mask, bias):
    return sum(kernels.written_out(query, key, (i + 1) * value, mask, bias) for i in range(3))


@pytest.fixture
def gpu(monkeypatch):
    """As if this were a GPU, with no choice made yet and the kernels that are put into the dict."""
    table = {"xla": Kernel(kernels.written_out)}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "KERNELS", table)
    monkeypatch.setattr(kernels, "_choices", {})
    return table


ROWS = jnp.cos(jnp.arange(8 * 2 * 128 * 8.0)).reshape(8, 2, 128, 8)


def total(x):
    return jnp.sum(kernels.attend(x, x, x))


def test_the_fastest_is_measured_amid_a_trace_and_taken(gpu):
    """Under jit, grad and a scan, where arrays are traced, the stand-in that does nothing wins."""
    gpu |= {"refuses": Kernel(refuses, "gpu"), "passes": Kernel(passes, "gpu"), "elsewhere": Kernel(passes, "tpu")}
    slope = jax.jit(jax.grad(lambda x: jax.lax.scan(lambda s, _: (s + total(x), None), 0.0, length=1)[0]))
    assert np.all(slope(ROWS) == 2)
    ((case, choice),) = kernels.choices().items()
    assert case == Case("gpu", 1, 2, 128, 128, 8, "float32", devices=8)  # an eighth of the batch
    assert choice.name == "passes" and set(choice.seconds) == {"xla", "passes"}


def test_a_kernel_that_is_no_faster_is_left_and_shards_are_measured_as_they_are(gpu):
    gpu["thrice"] = Kernel(thrice, "gpu")
    part = PartitionSpec(("data", "fsdp"))
    shards = jax.shard_map(lambda x: kernels.attend(x, x, x), mesh=make_mesh(), in_specs=part, out_specs=part)
    np.testing.assert_allclose(jax.jit(shards)(ROWS), kernels.written_out(ROWS, ROWS, ROWS, None, None), atol=1e-6)
    ((case, choice),) = kernels.choices().items()
    assert (case.batch, case.devices, choice.name, len(choice.seconds)) == (1, 1, "xla", 2)


def test_where_nothing_runs_the_written_out_form_is_taken(gpu):
    gpu |= {"xla": Kernel(refuses), "refuses": Kernel(refuses, "gpu")}
    assert kernels.choose(LONG._replace(platform="gpu", batch=1, heads=1)) == ("xla", {})


def test_flops_are_those_of_the_written_out_form(gpu):
    gpu["passes"] = Kernel(passes)
    kernels._choices[kernels.case_of(ROWS, ROWS, None, None)] = kernels.Choice("passes")
    assert np.all(kernels.attend(ROWS, ROWS, ROWS) == 2 * ROWS)
    assert count_flops(total, ROWS) == 4 * 8 * 2 * 128 * 128 * 8


def test_a_named_kernel_is_taken_where_the_platform_has_it(gpu):
    gpu |= {"passes": Kernel(passes, "gpu"), "elsewhere": Kernel(refuses, "tpu")}
    np.testing.assert_array_equal(kernels.attend(ROWS, ROWS, ROWS, kernel="passes"), 2 * ROWS)
    plain = kernels.written_out(ROWS, ROWS, ROWS, None, None)
    np.testing.assert_array_equal(kernels.attend(ROWS, ROWS, ROWS, kernel="elsewhere"), plain)
    assert not kernels.choices()


def test_what_cudnn_is_given_is_the_same_attention(monkeypatch):
    """Its masks and even shapes, which `jax.nn.dot_product_attention` takes for both of its implementations."""
    theirs = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, bias, mask, implementation):
        assert implementation == "cudnn" and bias.shape[2:] == mask.shape[2:] == (4, 6)
        return theirs(query, key, value, bias=bias, mask=mask)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    query, key, bias = ROWS[:2, :, :3], ROWS[2:4, :, :5], ROWS[:1, :, :3, :5]
    mask = jnp.arange(10).reshape(2, 5) % 3 > 0
    wanted = kernels.written_out(query, key, key + 1, mask, bias)
    np.testing.assert_allclose(kernels.cudnn(query, key, key + 1, mask, bias), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "fast"}, "attention='fast': choose from auto, xla, cudnn, flash"),
        (
            {"attention": "cudnn"},
            "attention='cudnn' takes dtype='bfloat16' and heads of a multiple of 8 channels, got f",
        ),
    ],
)
@pytest.mark.parametrize("name", ["dit", "uvit"])
def test_errors_name_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name]((8, 8, 1), **options)


def test_the_tpu_kernel_takes_any_number_of_tokens_with_masks_and_biases():
    """Forward and both backward kernels compile for a TPU; nothing runs."""
    shapes = [jax.ShapeDtypeStruct((2, 2, n, 72), jnp.bfloat16) for n in (300, 513, 513)]
    mask, bias = jax.ShapeDtypeStruct((2, 513), bool), jax.ShapeDtypeStruct((1, 2, 300, 513), jnp.float32)

    def loss(query, key, value, mask, bias):
        return jnp.sum(kernels.flash(query, key, value, mask, bias).astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 4))).trace(*shapes, mask, bias)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("custom_call @tpu_custom_call") == 3
