"""What every sampler of the table owes, and what single ones do besides."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import PROCESSES, coeffs
from maskdiff_jax.rng import key_for, normal, per_image
from maskdiff_jax.samplers import SAMPLERS, SPACINGS, initial_noise, sample
from maskdiff_jax.types import Cond
from tests.samplers import analytic

SMOOTH = ("cosine", "linear_flow", "edm")  # a table's derivatives jump, which leaves no order to measure
STRAIGHT = ("linear_flow", "edm")  # alpha and sigma are linear in t


class Member(NamedTuple):
    name: str
    options: dict = {}  # noqa: RUF012
    order: int = 1
    noisy: bool = False  # then the order is that of the output's variance
    marginal: tuple = ()  # processes on which one step carries a point mass's marginal at t to the one at s

    @property
    def id(self):
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    def on(self, process):
        return SAMPLERS[self.name](process, **self.options)


STATED = [
    Member("ddim", marginal=tuple(PROCESSES)),
    Member("ddim", {"eta": 0.5}, noisy=True, marginal=tuple(PROCESSES)),
    Member("ddim", {"eta": 1.0}, noisy=True, marginal=tuple(PROCESSES)),
    Member("ancestral", noisy=True, marginal=tuple(PROCESSES)),
    Member("ancestral", {"variance": "large"}, noisy=True),
    Member("euler", marginal=STRAIGHT),
    Member("heun", order=2, marginal=STRAIGHT),
    Member("dpm_solver", order=2, marginal=tuple(PROCESSES)),
    Member("dpm_solver", {"order": 1}, marginal=tuple(PROCESSES)),
    Member("unipc", order=3, marginal=SMOOTH),
    Member("unipc", {"order": 2}, order=2),
]
MEMBERS = STATED + [Member(name) for name in SAMPLERS if name not in {m.name for m in STATED}]
members = pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.id)
processes = pytest.mark.parametrize("name", PROCESSES)


@cache
def process_of(name):
    return PROCESSES[name]()


def times_of(process, n, spacing="log_snr"):
    return SPACINGS[spacing]()(process, n)


def keys_of(n, seed=0):
    return per_image(jax.random.key(seed), n)


def affine(step, probe):
    """(offset, gain, noise), each [pairs], of an affine step that takes probe(u) to offset + gain·u + noise·z."""
    a, b = keys_of(2)
    keys = jnp.stack([a, a, b])
    y = step(probe(jnp.array([0.0, 1.0, 0.0])), keys)  # [pairs, 3]
    z = normal(keys, (1, 1, 1)).reshape(3)
    noise = (y[:, 0] - y[:, 2]) / (z[0] - z[2])
    return y[:, 0] - noise * z[0], y[:, 1] - y[:, 0], noise


def steps_of(member, process, denoiser, t, s):
    """(x [pairs, 3], keys [3]) -> one step per pair (t, s), from a fresh state. Not jitted: compiling takes longer."""
    sampler = member.on(process)

    def one(x, t, s, keys):
        x = x.reshape(3, 1, 1, 1)
        return sampler.step(denoiser, sampler.init(x), x, t, s, Cond(), keys)[0].reshape(3)

    return lambda x, keys: jax.vmap(one, in_axes=(0, 0, 0, None))(x, t, s, keys)


@members
@processes
def test_a_point_mass_is_met_exactly(member, name):
    process, value = process_of(name), 0.37
    times, keys = times_of(process, 4), keys_of(3)
    x = initial_noise(process, keys, (1, 2, 1))
    out = analytic.walk(analytic.point_mass(value), member.on(process), times, x, Cond(), keys)
    np.testing.assert_array_equal(out, np.full(x.shape, value, np.float32))


@pytest.mark.parametrize(
    "member, name", [(m, p) for m in MEMBERS for p in m.marginal], ids=lambda a: a if isinstance(a, str) else a.id
)
def test_a_step_carries_a_point_mass_from_marginal_to_marginal(member, name):
    process, value = process_of(name), 0.37
    times = times_of(process, 12)
    t, s = times[:-2], times[1:-1]
    now, then = coeffs(process, t), coeffs(process, s)
    step = steps_of(member, process, analytic.point_mass(value), t, s)
    offset, gain, noise = affine(step, lambda u: now.alpha[:, None] * value + now.sigma[:, None] * u[None])
    np.testing.assert_allclose(offset, then.alpha * value, atol=2e-6 * float(now.sigma.max()))
    np.testing.assert_allclose(jnp.hypot(gain, noise), then.sigma, rtol=1e-4, atol=2e-6)
    assert member.noisy == bool(jnp.any(noise != 0))


MEAN, STD = 0.3, 0.7


def flow_error(member, process, n):
    """Distance to the exact solution of the probability-flow ODE on a Gaussian."""
    keys = keys_of(4)
    x = initial_noise(process, keys, (1, 1, 1))
    denoiser, times = analytic.gaussian(process, MEAN, STD), times_of(process, n)
    out = jax.jit(lambda x: sample(denoiser, member.on(process), process, times, x, Cond(), keys))(x)
    return float(jnp.abs(out - analytic.gaussian_flow(process, MEAN, STD, x, process.t_max)).max())


def variance_error(member, process, n):
    """|Var - STD²| of the output on a Gaussian, by following the variance through the affine steps: no draws."""
    denoiser, times = analytic.gaussian(process, MEAN, STD), times_of(process, n)
    t, s = times[:-2], times[1:-1]
    step = steps_of(member, process, denoiser, t, s)
    _, gain, noise = affine(step, lambda u: jnp.broadcast_to(u[None], (len(t), 3)))
    start, end = (coeffs(process, at) for at in (times[0], times[-2]))
    variance = float(start.alpha) ** 2 * STD**2 + float(start.sigma) ** 2
    for a, c in zip(np.float64(gain), np.float64(noise), strict=True):
        variance = a**2 * variance + c**2
    last = float(end.alpha) * STD**2 / (float(end.alpha) ** 2 * STD**2 + float(end.sigma) ** 2)
    return abs(last**2 * variance - STD**2)


@members
@pytest.mark.parametrize("name", SMOOTH)
def test_stated_order_on_a_gaussian(member, name):
    error = variance_error if member.noisy else flow_error
    coarse, fine = (error(member, process_of(name), n) for n in (64, 128))
    assert 1e-5 < fine < 0.1  # above rounding, and near the limit
    assert abs(np.log2(coarse / fine) - member.order) < 0.25


@pytest.mark.parametrize("member", [m for m in MEMBERS if not m.options], ids=lambda m: m.id)
@pytest.mark.parametrize("name", ["edm", "ddpm_linear"])
def test_moments_of_a_mixture(member, name):
    process = process_of(name)
    weights, means, std = np.array([0.3, 0.7]), np.array([[-0.8, 0.4], [0.5, -0.2]]), 0.2
    centre = weights @ means
    cov = (weights[:, None] * (means - centre)).T @ (means - centre) + std**2 * np.eye(2)

    denoiser = analytic.mixture(process, jnp.asarray(weights), jnp.asarray(means), std)
    times, sampler = times_of(process, 64), member.on(process)
    run = jax.jit(
        lambda keys: sample(denoiser, sampler, process, times, initial_noise(process, keys, (1, 1, 2)), Cond(), keys)
    )
    out = np.asarray(run(keys_of(4096, seed=1))).reshape(-1, 2)

    near = np.argmin([np.linalg.norm(out - m, axis=1) for m in means], axis=0)
    # four standard errors of 4096 draws are 0.029, 0.037, 0.03 and 0.007; the rest is for 64 steps of order 1
    np.testing.assert_allclose(np.mean(near == 0), weights[0], atol=0.04)
    np.testing.assert_allclose(out.mean(0), centre, atol=0.05)
    np.testing.assert_allclose(np.cov(out.T), cov, atol=0.05)
    for i in range(2):
        np.testing.assert_allclose(out[near == i].std(0), std, atol=0.03)


def one_step(member, process, keys, t=0.7, s=0.4):
    t, s, sampler = jnp.float32(t), jnp.float32(s), member.on(process)
    x = coeffs(process, t).sigma * normal(keys, (2, 2, 1))
    return sampler.step(analytic.gaussian(process, MEAN, STD), sampler.init(x), x, t, s, Cond(), keys)[0]


@members
def test_an_image_does_not_depend_on_its_batch(member):
    whole, half = (one_step(member, process_of("cosine"), keys_of(n)) for n in (4, 2))
    np.testing.assert_allclose(whole[:2], half, atol=1e-6)
    assert jnp.abs(whole[0] - whole[1]).max() > 1e-2


def gap(a, b, process):
    """The largest difference between single steps of two members, between 16 pairs of times all along the process."""
    denoiser, times = analytic.gaussian(process, MEAN, STD), times_of(process, 17)
    t, s = times[:-2], times[1:-1]
    x = coeffs(process, t).sigma[:, None] * jnp.array([[0.0, 1.0, -0.6]])
    y, z = (steps_of(m, process, denoiser, t, s)(x, keys_of(3)) for m in (a, b))
    return float((jnp.abs(y - z) / jnp.maximum(1, jnp.abs(y))).max())


@processes
def test_ddim_with_eta_1_is_ancestral_with_the_small_variance(name):
    assert gap(Member("ddim", {"eta": 1.0}), Member("ancestral"), process_of(name)) < 1e-6


@processes
def test_dpm_solver_of_order_1_is_ddim(name):
    assert gap(Member("ddim"), Member("dpm_solver", {"order": 1}), process_of(name)) < 2e-6


@processes
def test_euler_is_ddim_exactly_where_the_path_is_straight(name):
    assert (gap(Member("ddim"), Member("euler"), process_of(name)) < 2e-6) == (name in STRAIGHT)


def test_heun_is_algorithm_1_of_edm():
    """Written out in sigma, which is the paper's own time."""
    process = process_of("edm")
    times, keys = times_of(process, 6, "karras"), keys_of(4)
    denoiser = analytic.gaussian(process, MEAN, STD)
    x = start = initial_noise(process, keys, (2, 2, 1))
    sigma = 80 * np.asarray(times)
    for i in range(6):
        d = (x - denoiser(x, times[i], Cond()).x) / sigma[i]
        guess = x + (sigma[i + 1] - sigma[i]) * d
        if sigma[i + 1] == 0:
            x = guess
        else:
            d_next = (guess - denoiser(guess, times[i + 1], Cond()).x) / sigma[i + 1]
            x = x + (sigma[i + 1] - sigma[i]) * (d + d_next) / 2
    out = sample(denoiser, SAMPLERS["heun"](process), process, times, start, Cond(), keys)
    np.testing.assert_allclose(out, x, atol=2e-5)


def test_ancestral_on_the_whole_table_is_ddpm():
    """Ho, Jain & Abbeel 2020, eq. 7, written out in betas, on `respaced` times that are the table itself."""
    steps, low, high = 20, 1e-3, 0.4
    process = PROCESSES["ddpm_linear"](steps, low, high)
    times, keys = times_of(process, steps, "respaced"), keys_of(4)
    np.testing.assert_array_equal(times, np.arange(steps, -1, -1, dtype=np.float32) / np.float32(steps))
    denoiser = analytic.gaussian(process, MEAN, STD)
    start = initial_noise(process, keys, (2, 2, 1))

    beta = np.linspace(low, high, steps)
    bar = np.append(1, np.cumprod(1 - beta))
    x = np.float64(start)
    for i, n in enumerate(range(steps, 0, -1)):
        estimate = np.float64(denoiser(jnp.float32(x), times[i], Cond()).x)
        to_estimate = np.sqrt(bar[n - 1]) * beta[n - 1] / (1 - bar[n])
        to_x = np.sqrt(1 - beta[n - 1]) * (1 - bar[n - 1]) / (1 - bar[n])
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(key_for(keys, "sampler_step"), i)
        noise = np.sqrt(beta[n - 1] * (1 - bar[n - 1]) / (1 - bar[n])) * np.float64(normal(step_keys, (2, 2, 1)))
        x = to_estimate * estimate + to_x * x + noise
    out = sample(denoiser, SAMPLERS["ancestral"](process), process, times, start, Cond(), keys)
    np.testing.assert_allclose(out, x, atol=2e-6)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("ddim", {"eta": 1.5}, "eta must be in"),
        ("ancestral", {"variance": "huge"}, "choose from small, large"),
        ("dpm_solver", {"order": 3}, "choose from 1, 2"),
        ("unipc", {"order": 1}, "choose from 2, 3, 4"),
        ("unipc", {"variant": "bh3"}, "choose from bh1, bh2"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](process_of("cosine"), **options)
