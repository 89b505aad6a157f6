"""Nulls keep shapes and types; dropping nulls semantics alone or everything, at the stated rates, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import NULL_CONTROL, NULL_LABEL, PARTS, drop, null
from maskdiff_jax.types import Cond
from tests.masks.contract import assert_mean, assert_reproducible


def full(b: int) -> Cond:
    """A condition with every part present and nowhere null."""
    return Cond(
        label=jnp.arange(b, dtype=jnp.int32),
        text=jnp.ones((b, 3, 2)),
        text_mask=jnp.ones((b, 3), bool),
        pooled=jnp.ones((b, 4)),
        controls_high=jnp.ones((b, 2)),
        controls_low=jnp.ones((b, 1)),
    )


NULLS = Cond(NULL_LABEL, 0, False, 0, NULL_CONTROL, NULL_CONTROL)


def is_null(cond: Cond) -> dict[str, np.ndarray]:
    """For each part present, whether it is null [b]; a part that is half null fails."""
    found = {}
    for name, value in cond._asdict().items():
        if value is not None:
            hit = np.asarray(value == getattr(NULLS, name)).reshape(len(value), -1)
            assert np.all(hit.all(axis=1) == hit.any(axis=1))
            found[name] = hit.all(axis=1)
    return found


@pytest.mark.parametrize("which", PARTS)
def test_null_replaces_the_named_parts_only_and_keeps_shapes_and_types(which):
    cond = full(2)
    nulled = null(cond, which)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), nulled) == jax.tree.map(lambda x: (x.shape, x.dtype), cond)
    for name, hit in is_null(nulled).items():
        assert np.all(hit == (name in PARTS[which])), name
    assert jax.tree.all(jax.tree.map(jnp.array_equal, null(nulled, which), nulled))


@pytest.mark.parametrize("which", PARTS)
def test_absent_parts_stay_absent(which):
    assert null(Cond(), which) == Cond()
    nulled = null(Cond(label=jnp.array([3])), which)
    assert nulled._replace(label=None) == Cond()


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="which='label': choose from semantics, controls, all"):
        null(full(1), "label")


def test_drop_keeps_its_rates_and_never_leaves_semantics_without_controls():
    b, semantics, everything = 20_000, 0.2, 0.1
    hit = is_null(drop(jax.random.split(jax.random.key(0), b), full(b), semantics, everything))
    for name in PARTS["semantics"]:
        np.testing.assert_array_equal(hit[name], hit["label"])
    np.testing.assert_array_equal(hit["controls_low"], hit["controls_high"])
    assert not np.any(hit["controls_high"] & ~hit["label"])
    assert_mean(hit["label"] & ~hit["controls_high"], semantics)
    assert_mean(hit["controls_high"], everything)


@pytest.mark.parametrize(("rates", "which"), [((1.0, 0.0), "semantics"), ((0.0, 1.0), "all")])
def test_a_rate_of_one_is_the_null_itself(rates, which):
    cond = full(4)
    dropped = drop(jax.random.split(jax.random.key(0), 4), cond, *rates)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, dropped, null(cond, which)))


def test_rates_of_zero_change_nothing():
    cond = full(4)
    assert drop(jax.random.split(jax.random.key(0), 4), cond) is cond


def test_a_label_alone_can_be_dropped():
    dropped = drop(jax.random.split(jax.random.key(0), 64), Cond(label=jnp.arange(64)), 0.5)
    assert set(np.unique(np.asarray(dropped.label) == NULL_LABEL)) == {True, False}
    assert dropped._replace(label=None) == Cond()


def test_drops_are_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch():
    label = lambda keys: jnp.zeros(keys.shape[0], jnp.int32)  # noqa: E731
    assert_reproducible(lambda keys: drop(keys, Cond(label=label(keys)), 0.4, 0.2).label)


@pytest.mark.parametrize("rates", [(-0.1, 0.0), (0.0, -0.1), (0.7, 0.4)])
def test_rates_that_are_no_probabilities_are_refused(rates):
    with pytest.raises(ValueError, match="sum of at most 1"):
        drop(jax.random.split(jax.random.key(0), 2), full(2), *rates)
