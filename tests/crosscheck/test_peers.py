"""The PyTorch networks and training step of `benchmarks.peers` compute what ours do, from the same weights."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.peers import ours, peer_ways, step
from benchmarks.peers.jobs import Side
from benchmarks.peers.setups import Recipe, Setup
from benchmarks.peers.weights import state_dict
from maskdiff_jax import rng
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.state import state_from
from maskdiff_jax.types import Batch, Cond
from tests.models.perturb import perturbed

SIZE = {"patch": 2, "width": 48, "depth": 3, "heads": 4}
SETUPS = {
    f"{network}{masked or ''}": Setup("", network, SIZE, batch=5, masked=masked, shape=(8, 12, 3), classes=4)
    for network in ("dit", "uvit")
    for masked in (0, 0.75)
}
# Larger than in a run, so that every convention shows in three steps: each gradient is clipped, eps is of the size of
# the root of the second moment, the decay moves parameters by more than the tolerance.
RECIPE = Recipe(rate=1e-2, b1=0.8, b2=0.9, eps=1e-4, weight_decay=0.1, clip=0.1, decay=0.5)


@cache
def params_of(name):
    return perturbed(jax.jit(ours.model_of(SETUPS[name], "float32").init)(jax.random.key(0)))


def raw_of(name):
    raw = ours.raw_of(SETUPS[name])
    return raw._replace(label=np.array([0, -1, 3, 1, -1], np.int32))


def peer_of(name):
    return peer_ways.network_of(SETUPS[name], params_of(name))


def batch_of(raw):
    return Batch(jnp.asarray(raw.image), Cond(label=jnp.asarray(raw.label)))


def choices(setup, key, batch):
    """The random choices of our step with this key, for the peer."""
    draws = ours.objective_of(setup, "float32").draw(batch, key)
    eps = rng.normal(rng.key_for(draws.keys, "noise"), setup.shape)
    visibility, visible = ours.visibility_of(setup), None
    if visibility is not None:
        keys = rng.key_for(rng.key_for(draws.keys, "pass 0"), "visibility")
        grid = (setup.shape[0] // 2, setup.shape[1] // 2)
        visible = torch.tensor(np.asarray(visibility.sample(keys, grid)), dtype=torch.int64)
    return step.Draws(torch.tensor(np.asarray(draws.t)), torch.tensor(np.asarray(eps)), visible)


def agree(found, expected, relative):
    """Each tensor to ``relative`` of its own norm, and of 1e-3 of that of all where it is nearly 0."""
    assert found.keys() == expected.keys()
    whole = sum(float(tensor.square().sum()) for tensor in expected.values()) ** 0.5
    for name, tensor in expected.items():
        error, size = float((found[name] - tensor).norm()), float(tensor.norm())
        assert error <= relative * max(size, 1e-3 * whole), (name, error, size)


@pytest.mark.parametrize("name", SETUPS)
def test_outputs(name):
    """With null labels among the others; levels from data to noise."""
    setup, raw = SETUPS[name], raw_of(name)
    level = np.linspace(0, 1, setup.batch, dtype=np.float32)
    visible = None
    if setup.masked:
        order = np.random.default_rng(5).permuted(np.tile(np.arange(setup.tokens), (setup.batch, 1)), axis=1)
        visible = np.sort(order[:, : setup.kept], axis=1)
    apply = jax.jit(ours.model_of(setup, "float32").apply)
    batch = batch_of(raw)
    out = apply(params_of(name), batch.image, level, batch.cond, visible=visible)
    expected = np.asarray(out.prediction).reshape(setup.batch, setup.kept, -1)
    with torch.no_grad():
        ids = None if visible is None else torch.tensor(visible)
        found = peer_of(name)(torch.tensor(raw.image), torch.tensor(level), torch.tensor(raw.label), ids)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4 * expected.std(), rtol=1e-4)


@pytest.mark.parametrize("name", SETUPS)
def test_loss_and_gradient(name):
    setup, raw, key = SETUPS[name], raw_of(name), jax.random.key(3)
    batch, objective = batch_of(raw), ours.objective_of(setup, "float32")
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch, key)[0]))(params_of(name))
    network = peer_of(name)
    draws = choices(setup, key, batch)
    found = step.flow_matching_loss(network, 2, torch.tensor(raw.image), torch.tensor(raw.label), draws)
    found.backward()
    assert found.item() == pytest.approx(float(loss), rel=1e-4)
    agree({n: p.grad for n, p in network.named_parameters()}, state_dict(gradient), 1e-4)


@pytest.mark.parametrize("name", ["dit", "uvit0.75"])
def test_parameters_after_three_steps(name):
    """And their average: clipping, AdamW with its eps and its decay, and the average's warm-up, as one."""
    setup, raw, root = SETUPS[name], raw_of(name), jax.random.key(7)
    params = params_of(name)
    state = state_from(params, ours.optimizer_of(RECIPE), 0, make_mesh(jax.devices()[:1]))
    our_step = jax.jit(ours.step_of(setup, RECIPE, "float32"))
    training = step.Training(peer_of(name), 2, RECIPE)
    for number in range(3):
        draws = choices(setup, jax.random.fold_in(root, number), batch_of(raw))
        state, metrics = our_step(state, raw, root)
        loss = training.step(torch.tensor(raw.image), torch.tensor(raw.label), draws)
        assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-4)
        assert metrics["grad_norm"] > 2 * RECIPE.clip
    names = [n for n, _ in training.network.named_parameters()]
    averages = dict(zip(names, training.average, strict=True))
    before = state_dict(params)
    for found, tree in ((training.network.state_dict(), state.params), (averages, get_ema(state.opt_state, 0.5))):
        expected = state_dict(tree)
        assert found.keys() == expected.keys()
        for n, tensor in expected.items():
            torch.testing.assert_close(found[n].detach(), tensor, atol=1e-5, rtol=0, msg=lambda m, n=n: f"{n}: {m}")
        assert max(float((expected[n] - before[n]).abs().max()) for n in expected) > 1e-2


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_sampling(guidance):
    setup, raw = SETUPS["dit"]._replace(steps=6, guidance=guidance), raw_of("dit")
    noise = np.random.default_rng(3).standard_normal(raw.image.shape, np.float32)
    expected = ours.sampler_of(setup, "float32")(params_of("dit"), jnp.asarray(noise), jnp.asarray(raw.label))
    denoise = step.guided(peer_of("dit"), guidance)
    found = step.euler(denoise, 2, ours.times_of(6), torch.tensor(noise), torch.tensor(raw.label))
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=1e-4, rtol=1e-4)


def test_the_peer_draws_what_a_step_needs():
    """Ids sorted and distinct, every token as likely; t uniform in [0, 1]."""
    setup = SETUPS["dit0.75"]
    torch.manual_seed(0)
    draws = step.draw(setup, torch.zeros(4000, *setup.shape))
    assert draws.visible is not None and draws.visible.shape == (4000, setup.kept)
    assert bool((draws.visible.diff(dim=1) > 0).all())
    shares = torch.bincount(draws.visible.flatten(), minlength=setup.tokens) / 4000
    assert float((shares - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert abs(float(draws.t.mean()) - 0.5) < 0.02 and abs(float(draws.eps.std()) - 1) < 0.01


@pytest.mark.parametrize(("name", "way"), [("ours", "ours"), ("peer", "eager")])
def test_a_side_measures_itself(name, way):
    """In a process of its own, whose errors come back as text and do not end it."""
    with Side(name, "cpu") as side:
        with pytest.raises(RuntimeError, match=f"^{name}, prepare .*KeyError: 'no such kind'"):
            side.prepare("no such kind", (4, 4, 4), 1)
        assert side.prepare("product", (4, 4, 4), 1).ways == (way,)
        taken = side.take(way)
        assert taken.wall > 0 and taken.cpu > 0 and side.call("about")
        with pytest.raises(TimeoutError, match=r"^prepare product took more than 0 s$"):
            side.prepare("product", (64, 64, 64), 10**6, seconds=0)
    assert not side.process.is_alive()


def test_a_case_for_a_gpu_runs_beside_compiled_pytorch(tmp_path):
    """In tiny, on a CPU: each side in its process, and none of the peer's ways left out."""
    with pytest.raises(SystemExit) as stop:
        main([f"--out={tmp_path}", "--device=cpu", "--tiny", "--only=sampling"])
    found = read_json(tmp_path / "sampling.json")
    assert stop.value.code == 0 and set(found["ways"]) == {"ours", "compiled"} and found["notes"] == []
    assert found["ratio"]["median"] > 0 and found["provenance"]["versions"]["torch"] == torch.__version__
