"""Text tokens: a projection without positions, masked as the text is, with one token that is always there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import null
from maskdiff_jax.models.conditioning import pooled, text
from maskdiff_jax.models.dit import dit
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import random_params

SHAPE = CondShape(text_length=4, text_width=8, pooled_width=8)
TEXT = jax.random.normal(jax.random.key(0), (2, 4, 8))
MASK = jnp.array([[True, True, False, False], [True, False, True, True]])
COND = Cond(text=TEXT, text_mask=MASK)
X, LEVEL = jax.random.normal(jax.random.key(1), (2, 4, 4, 1)), jnp.array([0.2, 0.6])


def params_of(member, cond):
    return random_params(lambda key: member.init(key, cond)["params"], scale=0.3)


def context_of(member, cond):
    return member.apply({"params": params_of(member, cond)}, cond)


@pytest.fixture(scope="module")
def answer():
    model = dit((4, 4, 1), SHAPE, width=16, depth=1, heads=2, conditioning={"text": {"hidden": 12}})
    params, apply = random_params(model.init, scale=0.3), jax.jit(model.apply)
    return lambda cond: np.asarray(apply(params, X, LEVEL, cond).prediction)


@pytest.mark.parametrize("hidden", [None, 12])
def test_tokens_are_projected_one_by_one_behind_one_learned_token(hidden):
    member = text(SHAPE, 16, hidden)
    params, context = params_of(member, COND), context_of(member, COND)
    h = np.asarray(TEXT)
    if hidden is not None:
        h = np.asarray(jax.nn.gelu(h @ params["hidden"]["kernel"] + params["hidden"]["bias"][None, None]))
    expected = h @ params["out"]["kernel"] + params["out"]["bias"][None, None]
    np.testing.assert_allclose(context.tokens[:, 1:], expected, atol=1e-4)
    np.testing.assert_array_equal(context.tokens[:, 0], np.tile(params["null"][0], (2, 1)))
    np.testing.assert_array_equal(context.mask, [[True, True, True, False, False], [True, True, False, True, True]])
    assert context.vector is None


def test_nothing_at_masked_positions_matters(answer):
    garbage = COND._replace(text=jnp.where(MASK[:, :, None], TEXT, 1e3))
    np.testing.assert_array_equal(answer(garbage), answer(COND))
    unmasked = COND._replace(text_mask=jnp.ones_like(MASK))
    assert np.abs(answer(unmasked) - answer(COND)).max(axis=(1, 2, 3, 4)).min() > 1e-3


def test_a_text_of_any_words_that_is_fully_masked_is_the_null(answer):
    masked = COND._replace(text_mask=jnp.zeros_like(MASK))
    np.testing.assert_array_equal(answer(masked), answer(null(COND)))
    assert context_of(text(SHAPE, 16), masked).mask.any(axis=1).all()  # a softmax always has something to attend to


def test_tokens_have_no_order_of_their_own(answer):
    order = jnp.array([2, 0, 3, 1])
    permuted = Cond(text=TEXT[:, order], text_mask=MASK[:, order])
    np.testing.assert_allclose(answer(permuted), answer(COND), atol=1e-5)
    assert np.abs(answer(COND._replace(text=TEXT[:, order])) - answer(COND)).max() > 1e-3


def test_a_text_may_be_of_another_length(answer):
    padded = Cond(text=jnp.pad(TEXT, ((0, 0), (0, 3), (0, 0))), text_mask=jnp.pad(MASK, ((0, 0), (0, 3))))
    np.testing.assert_allclose(answer(padded), answer(COND), atol=1e-5)


@pytest.mark.parametrize(
    ("member", "cond", "message"),
    [
        (text, Cond(text=TEXT[..., :5], text_mask=MASK), "text of width 5, this network was built for 8"),
        (text, Cond(text=TEXT), "cond.text comes without cond.text_mask"),
        (pooled, Cond(pooled=TEXT[:, 0, :5]), "pooled of width 5, this network was built for 8"),
    ],
)
def test_other_sizes_and_a_missing_mask_are_refused(member, cond, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(member(SHAPE, 16).init, jax.random.key(0), cond)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("hidden", [0, -3])
def test_a_projection_needs_units(hidden):
    with pytest.raises(ValueError, match=f"hidden must be at least 1, or None for one linear layer, got {hidden}"):
        text(SHAPE, 16, hidden)
