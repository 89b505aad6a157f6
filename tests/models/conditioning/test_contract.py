"""The contract of every member of CONDITIONINGS, in a transformer and in a U-Net.

Null equals dropped, a condition changes the answer for its own image, what is declared to start at 0 leaves the
baseline untouched, the answer is for the image alone, absence raises. A new member needs an entry of `EXAMPLES`.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import drop, null
from maskdiff_jax.models import CONDITIONINGS, MODELS
from maskdiff_jax.models.conditioning import Context, merge
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

B, SHAPE, WIDTH = 2, (4, 4, 1), 16
X, LEVEL = jax.random.normal(jax.random.key(0), (B, *SHAPE)), jnp.array([0.1, 0.8])
BACKBONES = {  # each of width 16
    "dit": {"width": WIDTH, "depth": 1, "heads": 2},
    "unet": {"base": WIDTH // 4, "multipliers": (1,), "head_channels": 2, "groups": 2},
}
SCALES = {"dit": 0.3, "unet": 0.7}  # of random parameters, such that every condition shows in the answer


class Example(NamedTuple):
    shape: CondShape
    cond: Cond
    other: Cond  # another condition for image 0, the same for image 1
    absent: str  # what is said where the condition is None
    unbuilt: str  # what is said where the data carry none
    part: str = "semantics"


def uniform(*shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(5), (B, *shape))


LABEL = Example(
    CondShape(classes=3),
    Cond(label=jnp.array([0, 2])),
    Cond(label=jnp.array([1, 2])),
    r"cond\.label is None",
    "needs classes ≥ 1, got 0",
)
MASK = jnp.arange(5)[None] < jnp.array([[3], [5]])
CONTROLS = CondShape(controls_high=2, controls_low=3)
EXAMPLES = {
    "label": LABEL,
    "label_token": LABEL,
    "text": Example(
        CondShape(text_length=5, text_width=6),
        Cond(text=uniform(5, 6), text_mask=MASK),
        Cond(text=uniform(5, 6).at[0, 2, 3].add(1.0), text_mask=MASK),
        r"cond\.text is None",
        "needs text, got 0 tokens of width 0",
    ),
    "pooled": Example(
        CondShape(pooled_width=6),
        Cond(pooled=uniform(6)),
        Cond(pooled=uniform(6).at[0, 3].add(1.0)),
        r"cond\.pooled is None",
        "needs pooled_width ≥ 1, got 0",
    ),
    "controls": Example(
        CONTROLS,
        Cond(controls_high=uniform(2), controls_low=uniform(3)),
        Cond(controls_high=uniform(2).at[0, 1].add(0.1), controls_low=uniform(3)),
        r"cond\.controls_high is None",
        "needs at least one, got controls_high=0 and controls_low=0",
        part="all",
    ),
}
STARTS_AT_ZERO = ("controls",)  # members whose last layer does; the rest of a network may be anything

every_member = pytest.mark.parametrize("name", CONDITIONINGS)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


@cache
def network(backbone: str, name: str):
    """A network with this condition alone: (apply, params)."""
    model = MODELS[backbone](SHAPE, EXAMPLES[name].shape, conditioning={name: {}}, **BACKBONES[backbone])
    return jax.jit(model.apply), random_params(model.init, scale=SCALES[backbone])


def answer(backbone: str, name: str, cond: Cond, visible=None) -> np.ndarray:
    apply, params = network(backbone, name)
    return np.asarray(apply(params, X, LEVEL, cond, visible=visible).prediction)


@every_member
@every_backbone
def test_a_condition_changes_its_own_image_only(backbone, name):
    base, other = (answer(backbone, name, cond) for cond in (EXAMPLES[name].cond, EXAMPLES[name].other))
    assert np.abs(base - other)[0].max() > 1e-3
    np.testing.assert_array_equal(base[1], other[1])


@every_member
@every_backbone
def test_null_equals_dropped_and_differs_from_every_condition(backbone, name):
    cond, keys, part = EXAMPLES[name].cond, jax.random.split(jax.random.key(0), B), EXAMPLES[name].part
    rates = {"semantics": (1.0, 0.0), "all": (0.0, 1.0)}[part]
    nulled = answer(backbone, name, null(cond, part))
    np.testing.assert_array_equal(nulled, answer(backbone, name, drop(keys, cond, *rates)))
    assert np.all(np.isfinite(nulled))
    assert np.abs(nulled - answer(backbone, name, cond)).max(axis=tuple(range(1, nulled.ndim))).min() > 1e-3
    half = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[1:]]), null(cond, part), cond)
    np.testing.assert_array_equal(answer(backbone, name, half)[0], nulled[0])
    np.testing.assert_array_equal(answer(backbone, name, half)[1], answer(backbone, name, cond)[1])


@pytest.mark.parametrize("name", STARTS_AT_ZERO)
@every_backbone
def test_what_starts_at_zero_leaves_the_baseline_untouched(backbone, name):
    """A fresh member in a network whose other parameters are trained: bit for bit the network without it."""
    cond, shape = EXAMPLES[name].cond, EXAMPLES[name].shape
    apply, params = network(backbone, name)
    fresh = CONDITIONINGS[name](shape, WIDTH).init(jax.random.key(0), cond)["params"]
    started = {**params, f"conditions_{name}": fresh}
    without = MODELS[backbone](SHAPE, shape, conditioning={}, **BACKBONES[backbone])
    rest = {key: value for key, value in params.items() if key != f"conditions_{name}"}
    out = apply(started, X, LEVEL, cond).prediction
    np.testing.assert_array_equal(out, apply(started, X, LEVEL, null(cond, "all")).prediction)
    np.testing.assert_array_equal(out, jax.jit(without.apply)(rest, X, LEVEL, cond).prediction)
    assert np.abs(out - answer(backbone, name, cond)).max() > 1e-3


@every_member
def test_the_answer_is_for_the_image_only(name):
    cond = EXAMPLES[name].cond
    assert answer("unet", name, cond).shape == X.shape
    assert answer("dit", name, cond).shape == (B, 4, 2, 2, 1)
    ids = jnp.array([[0, 3], [1, 2]])
    assert answer("dit", name, cond, visible=ids).shape == (B, 2, 2, 2, 1)
    np.testing.assert_allclose(
        answer("dit", name, cond, ids[:, ::-1]), answer("dit", name, cond, ids)[:, ::-1], atol=1e-5
    )


@every_member
def test_absence_and_data_without_it_are_errors(name):
    with pytest.raises(ValueError, match=EXAMPLES[name].absent) as error:
        answer("dit", name, Cond())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=EXAMPLES[name].unbuilt):
        CONDITIONINGS[name](CondShape(), WIDTH)


@pytest.mark.parametrize("name", ["label", "label_token"])
def test_rows_belong_to_labels(name):
    """Changing the last row of the table changes the null's answer, and no label's."""
    apply, params = network("dit", name)
    table = params[f"conditions_{name}"]["table"]["embedding"]
    assert table.shape == (LABEL.shape.classes + 1, WIDTH)
    other = np.concatenate([table[:-1], -table[-1:]])
    moved = {**params, f"conditions_{name}": {"table": {"embedding": other}}}
    labels = Cond(label=jnp.array([-1, LABEL.shape.classes - 1]))
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
    hidden = jnp.array([[True, False], [True, True]])
    np.testing.assert_array_equal(merge([b, c._replace(mask=hidden)]).mask, [[True, True, False], [True, True, True]])
