"""Parameters from one network to another: what is kept, by which rule the rest is made, and that nothing is silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models import dit, uvit
from maskdiff_jax.models.transfer import format_transfer, plan_transfer, transfer
from maskdiff_jax.types import Cond
from tests.models.perturb import random_params

TINY = {"width": 16, "depth": 1, "heads": 2}
LABELS = "conditions_label/table/embedding"


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def moved(name: str, old: np.ndarray, fresh: np.ndarray, **options) -> np.ndarray:
    """The leaf ``name``, in a network of that leaf alone."""
    params, report = transfer({name: old}, {name: fresh}, **options)
    assert list(report.kept if old.shape == fresh.shape else report.resized) == [name]
    assert (params[name].shape, params[name].dtype) == (fresh.shape, fresh.dtype)
    return np.asarray(params[name])


def ramp(rows: int, columns: int) -> np.ndarray:
    """A grid that is linear in the place on the image, [0, 1] along each side: the first two channels are the place."""
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    return np.stack([y, x, 3 * y - 2 * x + 1], axis=-1).astype(np.float32)


@pytest.mark.parametrize("member", ["label", "label_token"])
@pytest.mark.parametrize("classes, now", [(3, 5), (5, 3), (1, 4)])
def test_label_rows(member, classes, now):
    table = lambda rows: {f"conditions_{member}": {"table": {"embedding": rows}}}  # noqa: E731
    old, fresh = numbers(classes + 1, 4), numbers(now + 1, 4, seed=1)
    params, report = transfer(table(old), table(fresh))
    rows = np.asarray(params[f"conditions_{member}"]["table"]["embedding"])
    common = min(classes, now)
    np.testing.assert_array_equal(rows[:common], old[:common])
    np.testing.assert_array_equal(rows[common:now], fresh[common:now])  # none where there are fewer
    np.testing.assert_array_equal(rows[now], old[classes])
    assert report.resized == {f"conditions_{member}/table/embedding": ((classes + 1, 4), (now + 1, 4))}


def test_more_classes_and_a_larger_image_leave_old_answers():
    """A DiT of 10 classes and 8×8 pixels becomes one of 12 and 16×16, which at 8×8 answers as it did."""
    old = dit((8, 8, 1), 10, **TINY)
    params = random_params(old.init)
    larger = random_params(dit((16, 16, 1), 12, **TINY).init, scale=0.3)
    larger, report = transfer(params, larger)
    assert (list(report.resized), report.dropped, report.new) == ([LABELS], {}, {})

    label = jnp.concatenate([jnp.arange(10), jnp.array([-1])])
    x = jax.random.normal(jax.random.key(1), (11, 8, 8, 1))
    level = jnp.linspace(0.0, 1.0, 11)
    before = jax.jit(old.apply)(params, x, level, Cond(label=label)).prediction
    apply = jax.jit(dit((8, 8, 1), 12, **TINY).apply)
    np.testing.assert_allclose(apply(larger, x, level, Cond(label=label)).prediction, before, atol=1e-6)
    additional = apply(larger, x, level, Cond(label=label.at[0].set(10))).prediction
    assert np.abs(additional - before)[0].max() > 1e-3 and np.std(before) > 1e-2


@pytest.mark.parametrize("grid", [(8, 12), (3, 9), (2, 3)])
def test_interpolation_of_a_ramp_is_exact_and_held_at_the_edges(grid):
    """Linear in the place: so is what is read from it, between the outermost centres; beyond, those hold."""
    old = (4, 6)
    found = moved("positions", ramp(*old), numbers(*grid, 3))
    want = ramp(*grid)
    low, high = 0.5 / np.array(old), 1 - 0.5 / np.array(old)
    place = np.clip(want[..., :2], low.astype(np.float32), high.astype(np.float32))
    np.testing.assert_allclose(found[..., :2], place, atol=1e-6)
    np.testing.assert_allclose(found[..., 2], 3 * place[..., 0] - 2 * place[..., 1] + 1, atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (7, 11), (3, 2), (4, 9)])
def test_interpolation_agrees_with_numpy_and_with_the_resizing_of_images(grid):
    old = numbers(4, 6, 3)
    found = moved("positions_1", old, numbers(*grid, 3, seed=1))
    want = old
    for axis, n in enumerate(grid):
        places = (np.arange(n) + 0.5) * old.shape[axis] / n - 0.5
        read = lambda line: np.interp(places, np.arange(len(line)), line)  # noqa: B023, E731
        want = np.apply_along_axis(read, axis, want)
    np.testing.assert_allclose(found, want, atol=1e-5)
    np.testing.assert_allclose(found, jax.image.resize(old, (*grid, 3), "linear", antialias=False), atol=1e-6)


def test_positions_of_an_equal_grid_stay():
    for positions in ("interpolate", "extrapolate"):
        old = numbers(4, 6, 3)
        np.testing.assert_array_equal(moved("positions", old, numbers(4, 6, 3, seed=1), positions=positions), old)


def test_extrapolation_keeps_the_trained_rows_and_columns():
    old, fresh = numbers(4, 6, 3), numbers(7, 5, 3, seed=1)
    found = moved("positions_0", old, fresh, positions="extrapolate")
    np.testing.assert_array_equal(found[:4], old[:, :5])
    np.testing.assert_array_equal(found[4:], fresh[4:])


@pytest.mark.parametrize("positions", ["interpolate", "extrapolate"])
def test_positions_beside_the_image_are_never_resampled(positions):
    old, more = numbers(2, 3), numbers(4, 3, seed=1)
    grown = moved("extra_positions", old, more, positions=positions)
    np.testing.assert_array_equal(grown, np.concatenate([old, more[2:]]))
    np.testing.assert_array_equal(moved("extra_positions", more, old, positions=positions), more[:2])


def test_learned_positions_of_a_network():
    """The published step from one resolution to another, on a U-ViT of two segments that gains a label."""
    options = {"width": 16, "depth": 3, "heads": 2, "segments": (1, 2), "patch": 2}
    old = random_params(uvit((8, 12, 3), **options).init)
    model = uvit((16, 12, 3), 3, **options)
    fresh = random_params(model.init, scale=0.3)
    params, report = transfer(old, fresh)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(model))
    assert report.resized == {
        "extra_positions": ((1, 16), (2, 16)),
        "positions_0": ((4, 6, 16), (8, 6, 16)),
        "positions_1": ((4, 6, 16), (8, 6, 16)),
    }
    assert list(report.new) == ["conditions_label_token/table/embedding"] and report.dropped == {}
    np.testing.assert_allclose(params["positions_0"].mean(axis=(0, 1)), old["positions_0"].mean(axis=(0, 1)), atol=1e-6)
    for path in ("in_00", "middle", "out_00", "head_1"):
        jax.tree.map(np.testing.assert_array_equal, params[path], old[path])


def test_nothing_changes_between_equal_networks():
    old = random_params(dit((8, 8, 1), 3, **TINY).init)
    params, report = transfer(old, jax.tree.map(np.zeros_like, old))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, params, old)))
    assert (report.resized, report.dropped, report.new) == ({}, {}, {})
    assert len(report.kept) == len(jax.tree.leaves(old))
    assert report.kept["block_00/attention/qkv/kernel"] == (16, 48)


def test_conditions_may_come_and_go():
    old = {"embed": numbers(2), "conditions_label": {"table": {"embedding": numbers(4, 3)}}}
    fresh = {"embed": numbers(2, seed=1), "conditions_text": {"linear": {"kernel": numbers(5, 3, seed=1)}}}
    params, report = transfer(old, fresh)
    np.testing.assert_array_equal(params["embed"], old["embed"])
    assert params["conditions_text"]["linear"]["kernel"] is fresh["conditions_text"]["linear"]["kernel"]
    assert report.dropped == {LABELS: (4, 3)} and report.new == {"conditions_text/linear/kernel": (5, 3)}


def test_renewed_leaves_are_fresh_wherever_they_are():
    old = {"embed": numbers(2), "final": {"kernel": numbers(3, 3), "bias": numbers(3)}, "gone": {"a": numbers(4)}}
    fresh = {
        "embed": numbers(2, seed=1),
        "final": {"kernel": numbers(3, 5), "bias": numbers(3, seed=1)},
        "more": numbers(7),
    }
    params, report = transfer(old, fresh, renew=("final", "gone/a", "more"))
    np.testing.assert_array_equal(params["embed"], old["embed"])
    jax.tree.map(np.testing.assert_array_equal, params["final"], fresh["final"])
    assert report.new == {"final/bias": (3,), "final/kernel": (3, 5), "more": (7,)}
    assert report.dropped == {"gone/a": (4,)} and list(report.kept) == ["embed"]
    again, _ = transfer(params, fresh, renew="final/bias")  # one name will do
    assert again["final"]["bias"] is fresh["final"]["bias"] and again["final"]["kernel"] is params["final"]["kernel"]


def block(**leaves: np.ndarray) -> dict:
    return {"a": numbers(2), "b": numbers(2), "c": {"kernel": numbers(2, 3), "bias": numbers(3)}, **leaves}


@pytest.mark.parametrize(
    "old, fresh, options, message",
    [
        (
            block(),
            block(b=numbers(3)),
            {},
            r"1 of 4 parameters do not match: b has shape \[2\] in the old and \[3\] in",
        ),
        (block(), block(d=numbers(1)), {}, r"1 of 5 parameters do not match: d is only in the new network.*in renew"),
        (block(d=numbers(1)), block(), {}, r"d is only in the old network"),
        (block(), block(d=numbers(1)), {"renew": ("c",)}, r"d is only in the new network"),
        (block(), block(), {"renew": ("c", "d")}, r"renew='d' names no parameter: .* beginning with a, b, c$"),
        (block(), block(), {"renew": ("c/k",)}, r"renew='c/k' names no parameter"),  # whole names only
        (block(), block(), {"positions": "nearest"}, r"positions='nearest': choose from interpolate, extrapolate"),
        (block(positions=numbers(2, 2, 4)), block(positions=numbers(3, 3, 5)), {}, r"positions has shape \[2, 2, 4\]"),
        (block(positions=numbers(4, 4)), block(positions=numbers(3, 3, 4)), {}, r"positions has shape \[4, 4\]"),
        (block(conditions_x=numbers(4, 4)), block(conditions_x=numbers(5, 4)), {}, r"conditions_x has shape \[4, 4\]"),
    ],
)
def test_a_mismatch_is_an_error_that_names_it(old, fresh, options, message):
    for attempt in (transfer, plan_transfer):
        with pytest.raises(ValueError, match=message) as error:
            attempt(old, fresh, **options)
        assert "\n" not in str(error.value) and "another architecture" not in str(error.value)


def test_another_architecture_is_one_line():
    old, fresh = shapes(dit((8, 8, 1), 3, **TINY)), shapes(uvit((8, 8, 1), 3, width=16, depth=3, heads=2))
    with pytest.raises(
        ValueError, match=r"^another architecture: \d+ of \d+ parameters do not match: .*; and \d+ more$"
    ):
        plan_transfer(old, fresh)
    with pytest.raises(ValueError, match=r"^another architecture: .*block_00/attention/out/bias has shape \[16\] in"):
        plan_transfer(old, shapes(dit((8, 8, 1), 3, width=32, depth=1, heads=2)))


def test_a_plan_needs_shapes_alone_and_is_what_is_done():
    old, fresh = dit((8, 8, 1), 3, **TINY), dit((8, 8, 1), 5, **TINY)
    plan = plan_transfer(shapes(old), shapes(fresh), renew=("final",))
    assert plan == transfer(random_params(old.init), random_params(fresh.init), renew=("final",))[1]


def test_the_dtype_is_that_of_the_fresh_leaf_and_leaves_from_anywhere_combine():
    first, last = jax.devices()[0], jax.devices()[-1]
    old = {"positions": numbers(2, 2, 4), "kernel": numbers(3), "extra_positions": numbers(1, 4)}
    fresh = {"positions": numbers(4, 4, 4), "kernel": numbers(3), "extra_positions": numbers(2, 4)}
    old = jax.device_put(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), old), first)
    fresh = jax.device_put(fresh, last)
    params, _ = transfer(old, fresh)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["kernel"], np.asarray(old["kernel"], np.float32))
    assert params["kernel"].devices() == {first}
    traced = jax.jit(lambda a, b: transfer(a, b)[0])(jax.device_get(old), jax.device_get(fresh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, traced)


def test_the_table_counts_leaves_and_parameters():
    old = {"a": numbers(1000, 2), "positions": numbers(2, 2, 4), "conditions_label": {"k": numbers(5)}, "b": numbers(9)}
    fresh = {
        "a": numbers(1000, 2),
        "positions": numbers(3, 3, 4),
        "conditions_text": {"k": numbers(6), "l": numbers(1)},
    }
    report = plan_transfer(old, fresh, renew=("b",))
    lines = [" ".join(line.split()) for line in format_transfer(report).splitlines()]
    assert lines == [
        "kept 1 leaves 2,000 parameters",
        "resized 1 leaves 36 parameters positions [2, 2, 4] -> [3, 3, 4]",
        "dropped 2 leaves 14 parameters b, conditions_label",
        "new 2 leaves 7 parameters conditions_text",
    ]
