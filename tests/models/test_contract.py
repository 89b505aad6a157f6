"""The contract of every member of MODELS, on parameters perturbed by N(0, 0.05).

A new member is enrolled by its line in the table; `OPTIONS` makes it small. Members without an entry run on their
defaults. Tests of tokens run on every member that is not declared to be without, the rest on all.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models import MODELS
from maskdiff_jax.tokens import gather, patchify, unpatchify
from maskdiff_jax.types import Array, Batch, Cond, Model, Output, Params
from tests.models.perturb import perturbed

SHAPE = (8, 12, 3)  # not square: rows and columns must not be swapped
CLASSES = 3
BATCH = 2
OPTIONS: dict[str, dict[str, Any]] = {
    "dit": {"width": 32, "depth": 2, "heads": 2},
    "unet": {"base": 8, "multipliers": (1, 2), "attention": (4,), "head_channels": 8, "groups": 2},
    "uvit": {"width": 32, "depth": 3, "heads": 2},
    "mdt": {"width": 32, "depth": 3, "heads": 2, "decoder": 1},
    "pixart": {"width": 32, "depth": 2, "heads": 2},
    "mmdit": {"width": 32, "depth": 2, "heads": 2},
}
FRESH_OUTPUT_NOT_ZERO = {"uvit"}
WITHOUT_TOKENS = {"unet"}
ANSWERS_FOR_ALL = {"mdt"}  # for hidden tokens too: ids are None whatever is visible
READS_HIDDEN = {"mdt"}  # by the published shortcuts of its decoder, without which its own tests hold it to the rule
SILENT = {"pixart": "['query']"}  # with the label as the only token there is nothing to choose among: gradient 0


class Case(NamedTuple):
    model: Model
    fresh: Params
    params: Params  # fresh, perturbed
    apply: Any  # jitted (params, x, level, cond, visible) -> Output
    traces: list[None]  # an entry for each time that it was traced


def build(name: str, classes: int = CLASSES, **options: Any) -> Model:
    return MODELS[name](SHAPE, classes, **OPTIONS.get(name, {}), **options)


def jitted(model: Model, traces: list[None]) -> Any:
    @jax.jit
    def apply(params: Params, x: Array, level: Array, cond: Cond, visible: Array | None = None) -> Output:
        traces.append(None)
        return model.apply(params, x, level, cond, visible=visible)

    return apply


@cache
def case(name: str) -> Case:
    model, traces = build(name), []
    fresh = jax.device_get(jax.jit(model.init)(jax.random.key(0)))  # NumPy perturbs without compiling
    return Case(model, fresh, perturbed(fresh), jitted(model, traces), traces)


every_model = pytest.mark.parametrize("name", MODELS)
every_token_model = pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_TOKENS])
every_model_with_ids = pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in WITHOUT_TOKENS | ANSWERS_FOR_ALL]
)
every_other_model = pytest.mark.parametrize("name", [name for name in MODELS if name in WITHOUT_TOKENS])


@pytest.fixture(scope="module")
def batch() -> Batch:
    image = jax.random.uniform(jax.random.key(1), (BATCH, *SHAPE), minval=-1.0)
    return Batch(image, Cond(label=jnp.array([0, CLASSES - 1])))


LEVEL = jnp.array([0.2, 0.7])


def answer(name: str, batch: Batch, visible: Array | None = None, level: Array = LEVEL) -> Output:
    return case(name).apply(case(name).params, batch.image, level, batch.cond, visible)


def token_count(name: str) -> int:
    rows, columns = case(name).model.tokens.grid  # pyright: ignore[reportOptionalMemberAccess]
    return rows * columns


def subset(name: str) -> Array:
    """Half of the tokens, another half for each image."""
    n = token_count(name)
    return jnp.stack([jnp.arange(0, n, 2), jnp.arange(1, n, 2)])


def of_tokens(out: Output, ids: Array) -> Array:
    """The answers for the tokens ``ids``, of a network that answers for them or for all."""
    return gather(out.prediction, ids) if out.ids is None else out.prediction


@every_model
def test_params_are_plain_dicts_of_float32(name):
    params = case(name).fresh
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    nodes = [params]
    while nodes:
        node = nodes.pop()
        assert type(node) is dict
        nodes += [child for child in node.values() if not isinstance(child, np.ndarray)]


@every_model
def test_shapes(name, batch):
    out, tokens = answer(name, batch), case(name).model.tokens
    if tokens is None:
        shape = (BATCH, *SHAPE)
    else:
        assert (tokens.grid[0] * tokens.patch, tokens.grid[1] * tokens.patch) == SHAPE[:2]
        shape = (BATCH, token_count(name), tokens.patch, tokens.patch, SHAPE[-1])
    assert out.prediction.shape == shape
    assert out.prediction.dtype == jnp.float32
    assert out.ids is None


@every_model
def test_a_fresh_network_predicts_zero(name, batch):
    if name in FRESH_OUTPUT_NOT_ZERO:
        pytest.skip("declared: a fresh network of this kind is not 0")
    fresh = case(name).apply(case(name).fresh, batch.image, LEVEL, batch.cond, None)
    assert np.all(np.asarray(fresh.prediction) == 0)
    assert np.std(answer(name, batch).prediction) > 0.01  # and not because the architecture is silent


@every_model
def test_every_parameter_gets_a_finite_nonzero_gradient(name, batch):
    model = case(name).model
    visible = subset(name) if name in ANSWERS_FOR_ALL else None  # what fills hidden places is trained by them alone

    @jax.jit
    @jax.grad
    def grads(params: Params) -> Array:
        key = jax.random.key(3)
        out = model.apply(params, batch.image, LEVEL, batch.cond, visible=visible, train=True, key=key)
        return jnp.mean(jnp.square(out.prediction - 1))

    for keys, grad in jax.tree.leaves_with_path(grads(case(name).params)):
        path = jax.tree_util.keystr(keys)
        assert np.all(np.isfinite(grad)), path
        assert np.any(np.asarray(grad) != 0) or (name in SILENT and SILENT[name] in path), path


@every_model
def test_the_image_and_the_level_change_every_answer(name, batch):
    base = answer(name, batch).prediction
    other_level = answer(name, batch, level=LEVEL + jnp.array([0.01, 0.0])).prediction
    assert np.abs(other_level - base)[0].max() > 1e-3
    np.testing.assert_allclose(other_level[1], base[1], atol=1e-5)  # images do not see one another
    other_image = answer(name, batch._replace(image=batch.image.at[0].multiply(-1))).prediction
    assert np.abs(other_image - base)[0].max() > 1e-3
    np.testing.assert_allclose(other_image[1], base[1], atol=1e-5)


@every_model
def test_labels_and_the_null_label_differ(name, batch):
    labels = lambda label: Cond(label=jnp.full(BATCH, label, jnp.int32))  # noqa: E731
    one = lambda label: answer(name, batch._replace(cond=labels(label))).prediction  # noqa: E731
    answers = [np.asarray(one(label)) for label in range(-1, CLASSES)]
    gaps = [np.abs(a - b).max() for i, a in enumerate(answers) for b in answers[:i]]
    assert min(gaps) > 1e-3


@every_model
def test_an_unconditional_network_ignores_conditions(name, batch):
    """No operation takes the label, and there may be none; nothing is learned of it."""
    model = build(name, classes=0)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def predict(label, params):
        return model.apply(params, batch.image, LEVEL, Cond(label=label)).prediction

    traced = jax.make_jaxpr(predict)(batch.cond.label, params)
    label = traced.jaxpr.invars[0]
    assert label.aval.shape == (BATCH,) and traced.out_avals[0].shape == answer(name, batch).prediction.shape
    assert not any(label is taken for equation in traced.eqns for taken in equation.invars)
    assert jax.eval_shape(predict, None, params).shape == traced.out_avals[0].shape
    free, labelled = (sum(x.size for x in jax.tree.leaves(p)) for p in (params, case(name).fresh))
    assert free < labelled


@every_model
def test_a_missing_label_is_an_error(name, batch):
    with pytest.raises(ValueError, match=r"cond\.label is None"):
        answer(name, batch._replace(cond=Cond()))


@every_model
def test_bfloat16_is_close_to_float32(name, batch):
    """Within 3 % of the answer's standard deviation in the mean: bfloat16 has 8 bits of mantissa, eps 0.8 %."""
    model = build(name, dtype="bfloat16")
    half = jax.jit(model.apply)(case(name).params, batch.image, LEVEL, batch.cond).prediction
    full = np.asarray(answer(name, batch).prediction)
    assert half.dtype == jnp.float32
    assert 0 < np.sqrt(np.mean(np.square(half - full))) < 0.03 * full.std()


@every_model
def test_new_values_do_not_compile_again(name, batch):
    answer(name, batch)
    before = len(case(name).traces)
    assert before >= 1
    params = jax.tree.map(lambda x: x + 0.01, case(name).params)
    case(name).apply(params, batch.image + 1, LEVEL + 1, Cond(label=jnp.full(BATCH, -1, jnp.int32)), None)
    assert len(case(name).traces) == before


@every_model
def test_networks_without_tokens_are_declared(name):
    """What is skipped for want of tokens is skipped by name."""
    assert (case(name).model.tokens is None) == (name in WITHOUT_TOKENS)


@every_other_model
def test_ids_are_an_error_without_tokens(name, batch):
    with pytest.raises(ValueError, match="no tokens"):
        answer(name, batch, jnp.zeros((BATCH, 1), jnp.int32))


@every_token_model
def test_all_ids_equal_no_ids(name, batch):
    ids = jnp.tile(jnp.arange(token_count(name))[None], (BATCH, 1))
    out = answer(name, batch, ids)
    assert out.ids is None if name in ANSWERS_FOR_ALL else np.array_equal(out.ids, ids)
    np.testing.assert_allclose(out.prediction, answer(name, batch).prediction, atol=1e-5)


@every_token_model
def test_the_answer_for_visible_ids_has_their_shape_or_that_of_all(name, batch):
    ids = subset(name)
    out, dense = answer(name, batch, ids), answer(name, batch)
    answered = token_count(name) if name in ANSWERS_FOR_ALL else ids.shape[1]
    assert out.prediction.shape == (BATCH, answered, *dense.prediction.shape[2:])
    assert out.ids is None if name in ANSWERS_FOR_ALL else np.array_equal(out.ids, ids)
    gap = of_tokens(out, ids) - gather(dense.prediction, ids)
    assert np.abs(gap).max() > 1e-3  # hidden tokens are really not read


@every_model_with_ids
def test_permuting_ids_permutes_answers(name, batch):
    ids = subset(name)
    order = jax.random.permutation(jax.random.key(2), ids.shape[1])
    shuffled = answer(name, batch, ids[:, order])
    np.testing.assert_array_equal(shuffled.ids, ids[:, order])
    np.testing.assert_allclose(shuffled.prediction, answer(name, batch, ids).prediction[:, order], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name in ANSWERS_FOR_ALL])
def test_permuting_ids_leaves_the_answer_for_all(name, batch):
    ids = subset(name)
    shuffled = answer(name, batch, ids[:, jax.random.permutation(jax.random.key(2), ids.shape[1])])
    np.testing.assert_allclose(shuffled.prediction, answer(name, batch, ids).prediction, atol=1e-5)


@every_token_model
def test_positions_matter(name, batch):
    """The same patches at other places get another answer."""
    ids = subset(name)
    flat = batch._replace(image=jnp.full_like(batch.image, 0.5))  # every patch is the same
    here, there = (of_tokens(answer(name, flat, places), places) for places in (ids, ids[::-1]))
    gap = here - there
    assert np.abs(gap).max() > 1e-3


@every_token_model
def test_hidden_patches_do_not_matter(name, batch):
    if name in READS_HIDDEN:
        pytest.skip("declared: hidden tokens are read past the network's blocks")
    tokens, ids = case(name).model.tokens, subset(name)
    patches = patchify(batch.image, tokens.patch)
    garbage = jnp.full_like(patches, jnp.nan).at[jnp.arange(BATCH)[:, None], ids].set(gather(patches, ids))
    hidden = batch._replace(image=unpatchify(garbage, tokens.grid))
    assert np.isnan(hidden.image).any()
    np.testing.assert_array_equal(answer(name, hidden, ids).prediction, answer(name, batch, ids).prediction)


@every_model_with_ids
def test_work_is_proportional_to_the_visible_tokens(name, batch):
    """At half of the tokens, a forward pass costs at most 60 % of the dense one (conditioning is not per token)."""

    def flops(visible: Array | None) -> float:
        lowered = case(name).apply.lower(case(name).params, batch.image, LEVEL, batch.cond, visible)
        return lowered.cost_analysis()["flops"]

    assert 0.3 < flops(subset(name)) / flops(None) < 0.6
