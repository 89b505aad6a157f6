import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import rng
from maskdiff_jax.diffusion import process as processes
from maskdiff_jax.diffusion.objective import Objective, make_objective
from maskdiff_jax.diffusion.prediction import velocity
from maskdiff_jax.diffusion.times import logit_normal, uniform
from maskdiff_jax.diffusion.weighting import constant
from maskdiff_jax.evaluate.heldout import level_edges, make_heldout
from maskdiff_jax.masks import dense
from maskdiff_jax.types import Batch, Cond, Model, Output

PROCESS = processes.linear_flow()
PARAMS = {"slope": jnp.float32(3)}


def analytic(of="t", traces=None):
    """An objective whose loss is known: slope·t, the image's mean times its label, or its noise."""

    def per_image(params, batch, draws, *, train, key=None):
        assert not train
        if traces is not None:
            traces.append(batch.image.shape)
        noise = rng.normal(rng.key_for(draws.keys, "noise"), (3,)).mean(axis=1)
        data = batch.image.mean(axis=(1, 2, 3)) * draws.cond.label
        return {"t": params["slope"] * draws.t, "data": data, "noise": noise, "all": draws.t * noise + data}[of], {}

    return Objective(draw=None, per_image=per_image, loss=None)


def data(n):
    image = np.random.default_rng(0).uniform(-1, 1, (n, 2, 2, 1)).astype(np.float32)
    return Batch(image, Cond(label=np.arange(n, dtype=np.int32)))


def test_times_are_stratified_and_binned():
    """slope·t over mid-point quantiles of a uniform range: the middle of the range, and the middle of each level."""
    low, high = PROCESS.t_min, PROCESS.t_max
    result = make_heldout(analytic("t"), PROCESS, levels=4, batch_size=16)(PARAMS, data(32))
    assert list(result) == ["loss", "level_00", "level_01", "level_02", "level_03"]
    middles = low + (high - low) * (np.arange(4) + 0.5) / 4
    np.testing.assert_allclose([result[f"level_{j:02d}"] for j in range(4)], 3 * middles, rtol=1e-6)
    assert result["loss"] == pytest.approx(3 * (low + high) / 2, rel=1e-6)
    np.testing.assert_allclose(level_edges(PROCESS, 4), low + (high - low) * np.arange(5) / 4, rtol=1e-6)


def test_every_image_counts_once():
    held = data(23)
    result = make_heldout(analytic("data"), PROCESS, batch_size=8)(PARAMS, held)
    expected = np.mean(held.image.mean(axis=(1, 2, 3)) * np.arange(23))
    assert result["loss"] == pytest.approx(expected, rel=1e-5)


def test_levels_do_not_follow_the_order_of_the_data():
    """Images sorted by class: every level sees early and late ones."""
    held = Batch(np.ones((400, 2, 2, 1), np.float32), Cond(label=np.arange(400, dtype=np.int32)))
    result = make_heldout(analytic("data"), PROCESS, levels=4)(PARAMS, held)
    for j in range(4):
        assert result[f"level_{j:02d}"] == pytest.approx(199.5, abs=40)  # 3.5 standard errors of 100 of 400


@pytest.mark.parametrize("batch_size", [7, 64])
def test_independent_of_the_batch_size(batch_size):
    reference = make_heldout(analytic("all"), PROCESS, batch_size=8)(PARAMS, data(23))
    result = make_heldout(analytic("all"), PROCESS, batch_size=batch_size)(PARAMS, data(23))
    np.testing.assert_allclose(list(result.values()), list(reference.values()), rtol=1e-5)


def test_noise_is_fixed_and_differs_between_images_and_seeds():
    evaluate = make_heldout(analytic("noise"), PROCESS, levels=23)
    first, again = evaluate(PARAMS, data(23)), evaluate(PARAMS, data(23))
    assert first == again
    assert len(set(first.values())) == 24
    assert first != make_heldout(analytic("noise"), PROCESS, levels=23, seed=1)(PARAMS, data(23))


def test_compiles_once_and_reads_the_parameters_it_is_given():
    traces = []
    evaluate = make_heldout(analytic("t", traces), PROCESS, batch_size=8)
    first = evaluate(PARAMS, data(23))
    second = evaluate({"slope": jnp.float32(6)}, data(30))
    assert traces == [(8, 2, 2, 1)]
    assert second["loss"] == pytest.approx(2 * first["loss"], rel=1e-5)


def test_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    place = lambda tree: jax.device_put(tree, spread)  # noqa: E731
    many = make_heldout(analytic("all"), PROCESS, batch_size=16, place=place)(PARAMS, data(23))
    one = make_heldout(analytic("all"), PROCESS, batch_size=16)(PARAMS, data(23))
    np.testing.assert_allclose(list(many.values()), list(one.values()), rtol=1e-5)


def test_other_times():
    edges = level_edges(PROCESS, 2, logit_normal())
    np.testing.assert_allclose(edges, [PROCESS.t_min, 0.5, PROCESS.t_max], rtol=1e-4)
    result = make_heldout(analytic("t"), PROCESS, levels=2, times=logit_normal())(PARAMS, data(32))
    assert 3 * edges[0] < result["level_00"] < 3 * edges[1] < result["level_01"] < 3 * edges[2]


def test_loss_of_a_real_objective():
    """On x = 0, where x_t = t·eps and the velocity is eps, the answer x_t / t has no error, the answer 0 has E eps²."""
    factor = lambda params, x, level: params["scale"] * x / level[:, None, None, None]  # noqa: E731
    model = Model(lambda key: None, lambda params, x, level, cond, **_: Output(factor(params, x, level)))
    objective = make_objective(model, PROCESS, velocity(), constant("velocity"), uniform(), dense())
    evaluate = make_heldout(objective, PROCESS, batch_size=32)
    empty = Batch(np.zeros((64, 8, 8, 1), np.float32), Cond())
    assert evaluate({"scale": jnp.float32(1)}, empty)["loss"] < 1e-9
    assert evaluate({"scale": jnp.float32(0)}, empty)["loss"] == pytest.approx(1, abs=0.1)  # 4.5 standard errors


def test_too_few_images():
    with pytest.raises(ValueError, match="8 noise levels need at least as many held-out images, got 7"):
        make_heldout(analytic(), PROCESS)(PARAMS, data(7))
