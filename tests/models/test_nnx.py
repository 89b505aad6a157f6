"""`from_nnx`: a module of one's own, trained through the objective like any other network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import maskdiff_jax as md
from maskdiff_jax.models.nnx import from_nnx
from maskdiff_jax.tokens import gather, patchify
from maskdiff_jax.types import Batch, Cond, Output, Tokens

SHAPE, TOKENS = (8, 8, 1), Tokens((4, 4), 2)
B = 4


class ConvNet(nnx.Module):
    """Two convolutions with the level as one more channel, dropout, and a list of layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Conv(i, o, (3, 3), rngs=rngs) for i, o in ((2, 4), (4, 1))])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, level, cond):
        h = jnp.concatenate([x, jnp.broadcast_to(level[:, None, None, None], x.shape)], axis=-1)
        h = self.dropout(nnx.silu(self.layers[0](h)))
        self.hidden = nnx.Intermediate(h)  # what a call writes must not outlive it
        return self.layers[1](h)


class TokenNet(nnx.Module):
    """An MLP on each visible patch, its place and its class."""

    def __init__(self, rngs: nnx.Rngs):
        self.places, self.classes = nnx.Embed(16, 8, rngs=rngs), nnx.Embed(11, 8, rngs=rngs)
        self.first, self.last = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x, level, cond, visible):
        ids = jnp.tile(jnp.arange(16)[None], (len(x), 1)) if visible is None else visible
        patches = gather(patchify(x, 2), ids).reshape(*ids.shape, 4)
        levels = jnp.broadcast_to(level[:, None, None], (*ids.shape, 1))
        h = self.first(jnp.concatenate([patches, levels], axis=-1))
        h = nnx.silu(h + self.places(ids) + self.classes(cond.label)[:, None])
        return Output(self.last(h).reshape(*ids.shape, 2, 2, 1), visible)


def jitted(model):
    def apply(params, key=None, visible=None, train=False):
        return model.apply(params, IMAGE, LEVEL, BATCH.cond, visible=visible, train=train, key=key)

    return jax.jit(apply, static_argnames="train")


MODELS = {"conv": from_nnx(ConvNet, SHAPE), "tokens": from_nnx(TokenNet, SHAPE, TOKENS)}
IMAGE = jax.random.uniform(jax.random.key(1), (B, *SHAPE), minval=-1.0)
BATCH, LEVEL = Batch(IMAGE, Cond(label=jnp.arange(B))), jnp.linspace(0.1, 0.9, B)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model = MODELS[request.param]
    return model, jax.jit(model.init)(jax.random.key(0))


def test_params_are_plain_dicts_of_float32_with_readable_names(case):
    model, params = case
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}
    assert ("layers/0/kernel" if model.tokens is None else "first/kernel") in names
    assert all(type(leaf) is type(jnp.zeros(1)) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    nodes = [params]
    while nodes:
        node = nodes.pop()
        assert type(node) is dict and all(type(key) is str for key in node)
        nodes += [child for child in node.values() if not isinstance(child, jax.Array)]
    other = jax.jit(model.init)(jax.random.key(1))
    assert jax.tree.structure(other) == jax.tree.structure(params)
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), params, other)
    assert any(jax.tree.leaves(changed))


def test_it_trains_through_the_objective(case):
    model, params = case
    passes = ((1.0, md.masks.patch(0.5) if model.tokens else None),)
    objective = md.make_objective(
        model,
        md.process.linear_flow(),
        md.prediction.velocity(),
        md.weighting.constant("velocity"),
        md.times.stratified(),
        md.masks.sparse(0.5),
        passes=passes,
    )
    traces, optimizer = [], optax.adam(3e-2)

    @jax.jit
    def step(params, state, key):
        traces.append(None)
        (loss, _), grads = jax.value_and_grad(objective.loss, has_aux=True)(params, BATCH, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, grads

    state, losses = optimizer.init(params), []
    for _ in range(30):  # the same draws every time, so that the loss can only fall by learning
        params, state, loss, grads = step(params, state, jax.random.key(2))
        losses.append(float(loss))
    assert len(traces) == 1
    assert all(np.all(np.isfinite(g)) and np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.8 * losses[0]


def test_a_token_model_answers_for_the_visible_ids():
    apply, params = jitted(MODELS["tokens"]), jax.jit(MODELS["tokens"].init)(jax.random.key(0))
    ids = jnp.tile(jnp.array([[3, 1, 7]]), (B, 1))
    out, dense = apply(params, visible=ids), apply(params)
    np.testing.assert_array_equal(out.ids, ids)
    np.testing.assert_allclose(out.prediction, gather(dense.prediction, ids), atol=1e-6)


def test_the_key_drives_dropout_in_training_only_and_calls_leave_nothing_behind():
    apply, params = jitted(MODELS["conv"]), jax.jit(MODELS["conv"].init)(jax.random.key(0))
    draw = lambda seed, train: apply(params, jax.random.key(seed), train=train).prediction  # noqa: E731
    np.testing.assert_array_equal(draw(0, True), draw(0, True))  # NNX's own counters would have moved on
    assert np.any(np.asarray(draw(0, True)) != np.asarray(draw(1, True)))
    np.testing.assert_array_equal(draw(0, False), apply(params).prediction)
    with pytest.raises(ValueError, match="train=True\\) needs a key"):
        apply(params, train=True)


class Normed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm, self.table = nnx.BatchNorm(1, rngs=rngs), jnp.ones(3)


class Enlarging(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, x, level, cond):
        return jnp.repeat(x, 2, axis=1)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"norm\.mean \(BatchStat\), norm\.var \(BatchStat\), table \(array\)"):
        from_nnx(Normed, SHAPE)
    with pytest.raises(ValueError, match="does not tile an image of 8×8"):
        from_nnx(TokenNet, SHAPE, Tokens((4, 4), 4))
    model = from_nnx(Enlarging, SHAPE)
    with pytest.raises(ValueError, match=r"answers \[4, 16, 8, 1\], expected \[4, 8, 8, 1\]"):
        model.apply(model.init(jax.random.key(0)), IMAGE, LEVEL, Cond())
