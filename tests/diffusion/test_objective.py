"""The composed loss, on small networks whose answers are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskdiff_jax import rng, tokens
from maskdiff_jax.diffusion.inputs import INPUTS
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.prediction import PREDICTIONS, target, to_x
from maskdiff_jax.diffusion.process import PROCESSES, coeffs, log_snr
from maskdiff_jax.diffusion.times import TIMES
from maskdiff_jax.diffusion.weighting import WEIGHTINGS, in_space
from maskdiff_jax.masks import dense, patch, sparse
from maskdiff_jax.types import Batch, Cond, Model, Output, Tokens, Visibility

SHAPE, PATCH, GRID = (4, 4, 1), 2, (2, 2)
KEY = jax.random.key(7)


def linear_tokens():
    """A token model that scales each pixel by a learned factor of its place in the image."""

    def apply(params, x, level, cond, *, visible=None, train=False, key=None):
        answer = tokens.patchify(x * params["scale"][None] + params["bias"], PATCH)
        return Output(answer if visible is None else tokens.gather(answer, visible), visible)

    init = lambda key: {"scale": 0.3 * jax.random.normal(key, SHAPE), "bias": jnp.float32(0.1)}  # noqa: E731
    return Model(init, apply, Tokens(GRID, PATCH))


def make(model=None, process="linear_flow", prediction="velocity", weighting=None, supervision=None, **options):
    return make_objective(
        model or linear_tokens(),
        PROCESSES[process](),
        PREDICTIONS[prediction](),
        weighting or WEIGHTINGS["constant"](space=prediction),
        TIMES["uniform"](),
        supervision or dense(),
        **options,
    )


@pytest.fixture(scope="module")
def batch():
    image = jnp.tanh(jax.random.normal(jax.random.key(1), (8, *SHAPE)))
    return Batch(image, Cond(label=jnp.arange(8, dtype=jnp.int32)))


@pytest.fixture(scope="module")
def params():
    return linear_tokens().init(jax.random.key(2))


def test_dense_loss_is_the_weighted_mean_square_of_the_formula(batch, params):
    objective = make(weighting=WEIGHTINGS["debias"]())
    draws = objective.draw(batch, KEY)
    loss, metrics = objective.per_image(params, batch, draws)
    eps = rng.normal(rng.key_for(draws.keys, "noise"), SHAPE)
    t = draws.t[:, None, None, None]
    answer = ((1 - t) * batch.image + t * eps) * params["scale"][None] + params["bias"]
    mse = jnp.mean(jnp.square(answer - (eps - batch.image)), axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(loss, draws.t * (1 - draws.t) * mse, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_one_denoiser_has_one_loss_whatever_it_is_said_to_predict(process, batch):
    """The same estimate of x, restated in each of the six spaces, through the whole objective."""

    def restated(space):
        def apply(params, x_t, level, cond, *, visible=None, train=False, key=None):
            c = coeffs(PROCESSES[process](), level)
            wide = lambda k: k[:, None, None, None]  # noqa: E731
            believed = jnp.tanh(x_t / wide(jnp.hypot(c.alpha, c.sigma)))
            out = target(PREDICTIONS[space](), c, believed, (x_t - wide(c.alpha) * believed) / wide(c.sigma))
            return Output(out)

        return Model(lambda key: {}, apply, None)

    middle = TIMES["uniform"]()._replace(
        quantile=lambda process, u: (process.t_of_log_snr(8 * u - 4), jnp.ones_like(u))  # well conditioned both ways
    )
    losses = []
    for space in PREDICTIONS:
        objective = make_objective(
            restated(space), PROCESSES[process](), PREDICTIONS[space](), WEIGHTINGS["p2"](), middle, dense()
        )
        losses.append(objective.loss({}, batch, KEY)[0])
    np.testing.assert_allclose(losses, losses[0], rtol=2e-3)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("options", [{}, {"exact": True}, {"normalise": "expected"}, {"unit": "patch"}])
def test_sparse_gradient_is_unbiased_through_the_whole_loss(ratio, options, batch, params):
    """The network's gradient, averaged over many masks at one draw of t and noise, is the dense gradient."""
    masks = 4000
    draws = make().draw(batch, KEY)

    def gradient(supervision):
        per_image = make(supervision=supervision).per_image
        return jax.grad(lambda p: jnp.mean(per_image(p, batch, draws)[0]))(params)["scale"]

    def masked(key):
        supervision = sparse(ratio, **options)
        fresh = lambda keys, shape: supervision.sample(rng.per_image(key, keys.shape[0]), shape)  # noqa: E731
        return gradient(supervision._replace(sample=fresh))

    found = jax.jit(jax.vmap(masked))(jax.random.split(jax.random.key(3), masks))
    error = np.abs(found.mean(0) - gradient(dense()))
    assert np.all(error < 5 * found.std(0) / masks**0.5 + 1e-6)
    assert (found.std(0).max() > 1e-3) == (ratio > 0)


def test_seeing_every_token_is_the_unmasked_loss(batch, params):
    def value(visibility):
        return jax.value_and_grad(make(passes=((1.0, visibility),)).loss, has_aux=True)(params, batch, KEY)

    jax.tree.map(np.testing.assert_array_equal, value(patch(0.0)), value(None))


def test_hidden_tokens_carry_no_loss(batch, params):
    """Under a mask that shows token 0 alone, only its pixels have a gradient."""
    first = Visibility(lambda keys, grid: jnp.zeros((keys.shape[0], 1), jnp.int32), lambda grid: jnp.eye(4)[0])
    gradient = jax.grad(lambda p: make(passes=((1.0, first),)).loss(p, batch, KEY)[0])(params)["scale"]
    assert np.all(gradient[:2, :2] != 0)
    assert np.all(gradient[2:] == 0) and np.all(gradient[:, 2:] == 0)


def test_weighting_by_inclusion_undoes_a_mask_that_prefers_some_tokens(batch, params):
    probability = jnp.array([0.7, 0.1, 0.1, 0.1])

    def sample(keys, grid):
        return jax.vmap(lambda k: jax.random.categorical(k, jnp.log(probability), shape=(1,)))(keys)

    uneven = Visibility(sample, lambda grid: probability)
    draws = make().draw(batch, KEY)

    def average(**options):
        def one(key):
            fresh = lambda keys, grid: sample(rng.per_image(key, keys.shape[0]), grid)  # noqa: E731
            objective = make(passes=((1.0, uneven._replace(sample=fresh)),), **options)
            return jnp.mean(objective.per_image(params, batch, draws)[0])

        values = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), 8000))
        return float(values.mean()), float(values.std()) / 8000**0.5

    true = float(jnp.mean(make().per_image(params, batch, draws)[0]))
    mean, error = average(weight_by_inclusion=True)
    assert abs(mean - true) < 4 * error
    plain, error = average()
    assert abs(plain - true) > 8 * error


def test_two_passes_add_with_their_weights(batch, params):
    one = lambda *passes: make(passes=passes).loss(params, batch, KEY)[0]  # noqa: E731
    np.testing.assert_allclose(one((2.0, None)), 2 * one((1.0, None)), rtol=1e-6)
    np.testing.assert_allclose(one((0.3, None), (0.7, None)), one((1.0, None)), rtol=1e-6)


def test_loss_and_draws_are_those_of_one_device_on_eight(batch, params):
    objective = make(supervision=sparse(0.9), passes=((1.0, patch(0.5)),), drop_semantics=0.3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(batch, jax.devices()[0])
    draw = jax.jit(
        lambda b: jax.tree.map(lambda k: jax.random.key_data(k) if k.dtype == KEY.dtype else k, objective.draw(b, KEY))
    )
    jax.tree.map(np.testing.assert_array_equal, draw(spread), draw(whole))
    loss = jax.jit(jax.value_and_grad(lambda p, b: objective.loss(p, b, KEY)[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), loss(params, spread), loss(params, whole)
    )


def test_conditions_are_dropped_at_their_rate_and_only_in_draws(batch):
    big = Batch(jnp.zeros((4000, *SHAPE)), Cond(label=jnp.ones(4000, jnp.int32)))
    kept = make(drop_semantics=0.25).draw(big, KEY).cond.label
    assert abs(float(jnp.mean(kept == -1)) - 0.25) < 0.03
    np.testing.assert_array_equal(make().draw(big, KEY).cond.label, big.cond.label)


def test_network_is_fed_what_the_inputs_say(batch):
    seen = {}

    def apply(params, x, level, cond, *, visible=None, train=False, key=None):
        seen.update(x=x, level=level, train=train)
        return Output(jnp.zeros_like(x))

    model = Model(lambda key: {}, apply, None)
    make(model, process="edm", prediction="edm", inputs=INPUTS["edm"]()).loss({}, batch, KEY)
    draws = make(model, process="edm").draw(batch, KEY)
    c = coeffs(PROCESSES["edm"](), draws.t)
    np.testing.assert_allclose(seen["level"], -log_snr(c) / 8, rtol=1e-4, atol=1e-5)
    assert seen["train"] is True
    make(model, process="ddpm_linear", inputs=INPUTS["discrete"]()).loss({}, batch, KEY)
    assert np.all(seen["level"] >= -1e-3) and np.all(seen["level"] <= 999)
    with pytest.raises(ValueError, match="table of steps"):
        make(model, inputs=INPUTS["discrete"]()).loss({}, batch, KEY)


def test_edm_inputs_have_unit_variance_for_data_of_the_stated_spread():
    process = PROCESSES["edm"]()
    c = coeffs(process, jnp.geomspace(process.t_min, 1, 9))
    x, eps = jax.random.normal(jax.random.key(5), (2, 9, 20_000))
    scale, _ = INPUTS["edm"](data_std=0.5)(process, c, c.sigma / 80)
    fed = scale[:, None] * (0.5 * x + c.sigma[:, None] * eps)
    np.testing.assert_allclose(fed.std(axis=1), 1, atol=0.03)


def test_a_network_without_tokens_cannot_hide_them():
    model = Model(lambda key: {}, lambda *a, **k: None, None)
    with pytest.raises(ValueError, match="without tokens"):
        make(model, passes=((1.0, patch(0.5)),))
    with pytest.raises(ValueError, match="at least one pass"):
        make(passes=())


def test_denoiser_inverts_a_perfect_network(batch):
    from maskdiff_jax.diffusion.denoiser import make_denoiser

    process = PROCESSES["cosine"]()
    for space in ("x", "eps", "v"):
        eps = jax.random.normal(jax.random.key(6), batch.image.shape)
        t = jnp.linspace(0.1, 0.9, 8)
        c = coeffs(process, t)
        x_t = c.alpha[:, None, None, None] * batch.image + c.sigma[:, None, None, None] * eps
        goal = tokens.patchify(target(PREDICTIONS[space](), c, batch.image, eps), PATCH)
        model = Model(lambda key: {}, lambda params, x, level, cond, goal=goal, **_: Output(goal), Tokens(GRID, PATCH))
        denoise = make_denoiser(model, {}, process, PREDICTIONS[space](), INPUTS["default"]())
        np.testing.assert_allclose(denoise(x_t, t, batch.cond).x, batch.image, atol=1e-4)
        held = make_denoiser(model, {}, process, PREDICTIONS[space](), INPUTS["default"](), clip=(-0.1, 0.1))
        assert np.abs(held(x_t, t, batch.cond).x).max() <= 0.1


def test_weights_of_the_objective_are_those_of_the_space(batch, params):
    """The loss scales by the weighting's value at t, carried to the prediction's space."""
    plain, weighted = make(), make(weighting=WEIGHTINGS["min_snr"]())
    draws = plain.draw(batch, KEY)
    ratio = weighted.per_image(params, batch, draws)[0] / plain.per_image(params, batch, draws)[0]
    c = coeffs(PROCESSES["linear_flow"](), draws.t)
    np.testing.assert_allclose(ratio, in_space(WEIGHTINGS["min_snr"](), PREDICTIONS["velocity"](), c), rtol=1e-5)
    x_t = jnp.ones((8, *SHAPE))
    assert np.all(np.isfinite(to_x(PREDICTIONS["velocity"](), c, x_t, x_t)))
