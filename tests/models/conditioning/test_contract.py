"""The contract of every member of CONDITIONINGS: null equals dropped, labels change the answer, absence raises."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import drop, null
from maskdiff_jax.models import CONDITIONINGS
from maskdiff_jax.models.conditioning import Context, merge
from maskdiff_jax.models.dit import dit
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

CLASSES = 3
COND = Cond(label=jnp.array([0, 2]))
X, LEVEL = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jnp.array([0.1, 0.8])
every_member = pytest.mark.parametrize("name", CONDITIONINGS)


@cache
def network(name: str):
    """A DiT with this condition alone: (apply, params)."""
    model = dit((4, 4, 1), CLASSES, width=16, depth=1, heads=2, conditioning={name: {}})
    return jax.jit(model.apply), random_params(model.init, scale=0.2)


def answer(name: str, cond: Cond, visible=None) -> np.ndarray:
    apply, params = network(name)
    return np.asarray(apply(params, X, LEVEL, cond, visible=visible).prediction)


@every_member
def test_a_condition_changes_its_own_image_only(name):
    base, other = answer(name, COND), answer(name, COND._replace(label=jnp.array([1, 2])))
    assert np.abs(base - other)[0].max() > 1e-3
    np.testing.assert_array_equal(base[1], other[1])


@every_member
def test_null_equals_dropped(name):
    dropped = drop(jax.random.split(jax.random.key(0), 2), COND, semantics=1.0)
    np.testing.assert_array_equal(answer(name, null(COND)), answer(name, dropped))
    assert np.abs(answer(name, null(COND)) - answer(name, COND)).max() > 1e-3


@every_member
def test_the_answer_is_for_image_tokens_only(name):
    assert answer(name, COND).shape == (2, 4, 2, 2, 1)
    ids = jnp.array([[0, 3], [1, 2]])
    assert answer(name, COND, visible=ids).shape == (2, 2, 2, 2, 1)
    np.testing.assert_allclose(answer(name, COND, ids[:, ::-1]), answer(name, COND, ids)[:, ::-1], atol=1e-5)


@every_member
def test_absence_and_no_classes_are_errors(name):
    with pytest.raises(ValueError, match=r"cond\.label is None"):
        answer(name, Cond())
    with pytest.raises(ValueError, match="needs classes ≥ 1, got 0"):
        CONDITIONINGS[name](CondShape(), 16)


@every_member
def test_rows_belong_to_labels(name):
    """Changing the last row of the table changes the null's answer, and no label's."""
    apply, params = network(name)
    table = params[f"conditions_{name}"]["table"]["embedding"]
    assert table.shape == (CLASSES + 1, 16)
    other = np.concatenate([table[:-1], -table[-1:]])
    moved = {**params, f"conditions_{name}": {"table": {"embedding": other}}}
    labels = Cond(label=jnp.array([-1, CLASSES - 1]))
    before, after = (np.asarray(apply(p, X, LEVEL, labels).prediction) for p in (params, moved))
    assert np.abs(before - after)[0].max() > 1e-3
    np.testing.assert_array_equal(before[1], after[1])


def test_merge_sums_vectors_and_joins_tokens():
    assert merge([]) == Context()
    a = Context(vector=jnp.full((2, 3), 1.0))
    b = Context(vector=jnp.full((2, 3), 2.0), tokens=jnp.zeros((2, 1, 3)))
    c = Context(tokens=jnp.ones((2, 2, 3)))
    merged = merge([a, b, c])
    np.testing.assert_array_equal(merged.vector, jnp.full((2, 3), 3.0))
    np.testing.assert_array_equal(merged.tokens[:, :, 0], jnp.tile(jnp.array([[0.0, 1.0, 1.0]]), (2, 1)))
    assert merge([a]).tokens is None and merge([c]).vector is None
