"""The loop around the samplers: which times it visits, which keys it hands out, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskdiff_jax.diffusion.process import PROCESSES
from maskdiff_jax.rng import normal, per_image
from maskdiff_jax.samplers import SAMPLERS, SPACINGS, initial_noise, sample, sample_path
from maskdiff_jax.types import Cond, Denoised, Sampler
from tests.samplers import analytic

FLOW = PROCESSES["linear_flow"]()
KEYS = per_image(jax.random.key(3), 8)
TIMES = SPACINGS["uniform"]()(FLOW, 6)


def run(loop, denoiser, sampler, times=TIMES, keys=KEYS):
    return loop(denoiser, sampler, FLOW, times, initial_noise(FLOW, keys, (2, 2, 1)), Cond(), keys)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_scan_is_the_loop_written_out(name):
    denoiser, sampler = analytic.gaussian(FLOW, 0.3, 0.7), SAMPLERS[name](FLOW)
    x = initial_noise(FLOW, KEYS, (2, 2, 1))
    expected = analytic.walk(denoiser, sampler, TIMES, x, Cond(), KEYS)
    np.testing.assert_allclose(run(sample, denoiser, sampler), expected, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_path_has_the_estimate_at_every_time_but_0(name):
    tell_time = lambda x, t, cond: Denoised(jnp.broadcast_to(t, x.shape))  # noqa: E731
    path = run(sample_path, tell_time, SAMPLERS[name](FLOW))
    np.testing.assert_array_equal(path, np.broadcast_to(TIMES[:-1].reshape(6, 1, 1, 1, 1), (6, 8, 2, 2, 1)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoiser(name):
    denoiser = analytic.gaussian(FLOW, 0.3, 0.7)
    times = SPACINGS["uniform"]()(FLOW, 1)
    x = initial_noise(FLOW, KEYS, (2, 2, 1))
    expected = denoiser(x, times[0], Cond()).x
    np.testing.assert_allclose(run(sample, denoiser, SAMPLERS[name](FLOW), times), expected, rtol=1e-6)
    np.testing.assert_allclose(run(sample_path, denoiser, SAMPLERS[name](FLOW), times), expected[None], rtol=1e-6)


def test_every_step_and_every_image_has_its_own_noise():
    def step(denoiser, state, x, t, s, cond, keys):
        denoiser(x, t, cond)
        return normal(keys, x.shape[1:]), state

    def noises(keys):  # [6, b, 4]: the starting noise, then that of every step
        path = run(sample_path, lambda x, t, cond: Denoised(x), Sampler(init=lambda x: (), step=step), keys=keys)
        return np.asarray(path).reshape(6, len(keys), 4)

    noise, order = noises(KEYS), np.array([5, 0, 7, 2])
    assert len(np.unique(noise)) == noise.size
    assert abs(np.corrcoef(noise.reshape(6, -1)) - np.eye(6)).max() < 0.6  # 32 draws each
    np.testing.assert_array_equal(noises(KEYS[order]), noise[:, order])  # the noise follows the key, not the place


def test_initial_noise_has_the_scale_of_t_max():
    process = PROCESSES["edm"]()
    noise = initial_noise(process, per_image(jax.random.key(0), 4096), (1, 1, 1))
    np.testing.assert_allclose(noise.std(), 80, rtol=0.05)


def test_the_same_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    keys = jax.device_put(KEYS, NamedSharding(mesh, PartitionSpec("data")))
    draw = jax.jit(lambda keys: initial_noise(FLOW, keys, (2, 2, 1)))
    np.testing.assert_array_equal(draw(keys), draw(KEYS))
    whole = jax.jit(lambda keys: run(sample, analytic.gaussian(FLOW, 0.3, 0.7), SAMPLERS["ancestral"](FLOW), keys=keys))
    np.testing.assert_allclose(whole(keys), whole(KEYS), atol=1e-6)


def test_times_may_be_traced():
    denoiser, sampler = analytic.gaussian(FLOW, 0.3, 0.7), SAMPLERS["dpm_solver"](FLOW)
    traced = jax.jit(lambda times: run(sample, denoiser, sampler, times))(TIMES)
    np.testing.assert_allclose(traced, run(sample, denoiser, sampler), atol=1e-6)


@pytest.mark.parametrize(
    "times, message",
    [
        (TIMES[:-1], "decrease to 0"),
        (TIMES[::-1], "decrease to 0"),
        (TIMES[-1:], "at least two"),
        (jnp.array([0.5, 1e-6, 0.0]), "must be inside"),
        (jnp.array([1.0, 0.5, 0.0]), "must be inside"),
    ],
)
def test_wrong_times_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        run(sample, analytic.point_mass(0.0), SAMPLERS["ddim"](FLOW), times)
