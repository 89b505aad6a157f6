"""The training step: accumulation, devices, compilation, donation and the skip of non-finite gradients.

The objective is a linear denoiser with the contract of the real one: its draws come first, its loss is per image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import rng
from maskdiff_jax.diffusion.objective import Draws, Objective
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.optim import adamw, cosine, make_optimizer
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.state import abstract_state, init_state
from maskdiff_jax.train.step import jit_step, make_step, repeated
from maskdiff_jax.types import Batch, Cond, Model

SIDE, BATCH = 4, 32
ROOT = jax.random.key(11)
TABLES = (np.float32(1.0),)
MODEL = Model(
    lambda key: {"w": 0.3 * jax.random.normal(key, (SIDE**2, SIDE**2)), "class": jnp.zeros((3, SIDE**2))},
    apply=lambda *_: None,
)
OPTIMIZER = make_optimizer(adamw(weight_decay=0.1), cosine(10, 1e-2, warmup=2), clip=0.1, ema=(0.9,))


def ingest(raw, tables):
    image = raw["image"].astype(jnp.float32) / 127.5 - 1
    return Batch(tables[0] * image, Cond(label=raw["label"]))


def draw(batch, key):
    b = batch.image.shape[0]
    keys = rng.per_image(key, b)
    return Draws(jax.random.uniform(rng.key_for(key, "times"), (b,)), jnp.ones(b), keys, batch.cond)


def per_image(params, batch, draws, train=True, key=None):
    noise = rng.normal(rng.key_for(draws.keys, "noise"), batch.image.shape[1:])
    t = draws.t[:, None, None, None]
    x_t = ((1 - t) * batch.image + t * noise).reshape(-1, SIDE**2)
    out = x_t @ params["w"] + params["class"][draws.cond.label]
    loss = draws.weight * jnp.mean(jnp.square(out - noise.reshape(out.shape)), axis=1)
    first = noise[:, 0, 0, 0]
    return loss, {"t": draws.t, "noise": first, "dropout": jnp.full_like(first, jax.random.uniform(key))}


OBJECTIVE = Objective(draw, per_image, lambda params, batch, key: per_image(params, batch, draw(batch, key), key=key))


def raw_batch(step=0, b=BATCH):
    random = np.random.default_rng(step)
    image = random.integers(0, 256, (b, SIDE, SIDE, 1), np.uint8)
    return {"image": image, "label": random.integers(0, 3, b).astype(np.int32)}


def spread(mesh, raw):
    return jax.device_put(raw, batch_sharding(mesh))


def train(mesh, accumulate=1, steps=3):
    """The compiled step, the state after ``steps`` steps and the metrics of each."""
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh)
    step = jit_step(make_step(OBJECTIVE, OPTIMIZER, ingest, accumulate), state)
    step = step.lower(state, spread(mesh, raw_batch()), ROOT, TABLES).compile()
    history = []
    for i in range(steps):
        state, metrics = step(state, spread(mesh, raw_batch(i)), ROOT, TABLES)
        history.append(metrics)
    return step, state, history


@pytest.fixture(scope="module")
def mesh():
    return make_mesh()


@pytest.fixture(scope="module")
def eight(mesh):
    return train(mesh)


@pytest.fixture(scope="module", params=[2, 4])
def accumulated(mesh, request):
    return train(mesh, request.param)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 0, "atol": 0, **tolerance}), a, b)


def test_follows_the_optimizer_by_hand(eight):
    """Keys from fold_in(root, step), gradient of the mean loss, rate of the schedule, norms before and after."""

    @jax.jit
    def by_hand(params, opt_state, batch, key):
        mean = lambda p: per_image(p, batch, draw(batch, key), key=key)[0].mean()  # noqa: E731
        loss, grads = jax.value_and_grad(mean)(params)
        params, opt_state = OPTIMIZER.apply(grads, opt_state, params)
        return params, opt_state, loss, grads, draw(batch, key).t.mean()

    norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
    params = MODEL.init(jax.random.key(0))
    opt_state = OPTIMIZER.init(params)
    for i, metrics in enumerate(jax.device_get(eight[2])):
        batch = ingest(raw_batch(i), TABLES)
        params, opt_state, loss, grads, t = jax.device_get(
            by_hand(params, opt_state, batch, jax.random.fold_in(ROOT, i))
        )
        expected = {"loss": loss, "t": t, "grad_norm": norm(grads), "param_norm": norm(params)}
        close({name: metrics[name] for name in expected}, expected, rtol=1e-5)
        close(metrics["learning_rate"], [0, 0.005, 0.01][i], rtol=1e-6)
        assert metrics["grad_norm"] > 0.1  # clipping was active
        assert metrics["skipped"] == metrics["skipped_total"] == 0
    close(eight[1].params, params, atol=1e-6)
    close(eight[1].opt_state, opt_state, atol=1e-6)
    assert eight[1].step == 3
    assert all(metric.shape == () for metric in eight[2][0].values())


def test_micro_batches_equal_the_large_batch(accumulated, eight):
    _, state, history = accumulated
    _, expected, whole = eight
    close(state.params, expected.params, atol=1e-6)
    close(get_ema(state.opt_state, 0.9), get_ema(expected.opt_state, 0.9), atol=1e-6)
    for ours, theirs in zip(history, whole, strict=True):
        ours, theirs = dict(ours), dict(theirs)
        assert ours.pop("dropout") != theirs.pop("dropout")  # each micro-batch has its own key for the network
        close(ours, theirs, rtol=1e-5)


def test_micro_batches_stay_on_their_devices(accumulated):
    """The only collectives are sums: contiguous slices, unlike strided ones, would gather or permute the batch."""
    text = accumulated[0].as_text()
    assert "all-reduce" in text
    assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in text]
    assert f"f32[{BATCH}," not in text  # no device draws or computes the whole batch


def test_eight_devices_equal_one(eight):
    _, one, history = train(make_mesh(jax.devices()[:1]))
    close(eight[1].params, one.params, atol=1e-6)
    for ours, theirs in zip(eight[2], history, strict=True):
        close(ours, theirs, rtol=1e-5)


def test_draws_are_bit_equal_on_eight_devices(mesh):
    def noise(key):
        draws = draw(ingest(raw_batch(), TABLES), key)
        return draws.t, rng.normal(draws.keys, (SIDE, SIDE, 1))

    spread = jax.jit(noise, out_shardings=batch_sharding(mesh))(ROOT)
    assert all(len(draws.sharding.device_set) == 8 for draws in spread)
    close(jax.jit(noise)(ROOT), spread)


def test_every_step_and_every_root_key_draws_anew(mesh, eight):
    noise = [float(metrics["noise"]) for metrics in eight[2]]
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh)
    _, metrics = eight[0](state, spread(mesh, raw_batch()), jax.random.key(12), TABLES)
    assert len({*noise, float(metrics["noise"])}) == 4


def test_compiles_once_and_keeps_every_array_in_its_place(mesh):
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh)
    step = jit_step(make_step(OBJECTIVE, OPTIMIZER, ingest), state)
    for i in range(3):
        state, _ = step(state, spread(mesh, raw_batch(i)), ROOT, TABLES)
        assert step._cache_size() == 1
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert placed == jax.tree.map(lambda leaf: leaf.sharding, abstract_state(MODEL, OPTIMIZER, mesh))


def test_several_steps_in_one_call_are_those_of_several_calls(mesh, eight):
    _, expected, history = eight
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh)
    several = jit_step(repeated(make_step(OBJECTIVE, OPTIMIZER, ingest)), state)
    state, metrics = several(state, [spread(mesh, raw_batch(i)) for i in range(3)], ROOT, TABLES)
    close(state, expected, rtol=1e-6, atol=1e-7)
    close(metrics, jax.tree.map(lambda *steps: np.stack(steps), *history), rtol=1e-5)
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == [leaf.sharding for leaf in jax.tree.leaves(expected)]


def test_donates_the_state(mesh, eight):
    """Parameters, moments and averages are taken, nothing else; a donation that XLA cannot use would warn and raise."""
    state, raw = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh), spread(mesh, raw_batch())
    eight[0](state, raw, ROOT, TABLES)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state.inner_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((raw, ROOT)))


def test_non_finite_batch_is_skipped(mesh, eight):
    """Parameters, moments and averages keep their bits; the counters and the step advance; training then goes on."""
    step, _, _ = eight
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0), mesh)
    poison = (np.float32(np.nan),)
    raw = spread(mesh, raw_batch())
    state, _ = step(state, raw, ROOT, TABLES)
    before = jax.device_get(state)
    state, metrics = step(state, raw, ROOT, poison)
    close(state.params, before.params)
    close(state.opt_state.inner_state, before.opt_state.inner_state)
    assert state.step == 2 and state.opt_state.in_row == 1
    assert metrics["skipped"] == metrics["skipped_total"] == 1 and jnp.isnan(metrics["loss"])
    assert jnp.isfinite(metrics["param_norm"])

    state, metrics = step(state, raw, ROOT, TABLES)
    assert (metrics["skipped"], metrics["skipped_total"], state.opt_state.in_row) == (0, 1, 0)
    close(metrics["learning_rate"], 0.005, rtol=1e-6)  # of the second update, though of the third step
    assert np.abs(state.params["w"] - before.params["w"]).max() > 1e-4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_uneven_micro_batches_are_refused(mesh):
    state = abstract_state(MODEL, OPTIMIZER, mesh)
    step = make_step(OBJECTIVE, OPTIMIZER, ingest, accumulate=5)
    with pytest.raises(ValueError, match="batch of 32 does not divide evenly into 5 micro-batches"):
        jax.eval_shape(step, state, raw_batch(), ROOT, TABLES)
    with pytest.raises(ValueError, match="at least 1"):
        jax.eval_shape(make_step(OBJECTIVE, OPTIMIZER, ingest, accumulate=0), state, raw_batch(), ROOT, TABLES)
