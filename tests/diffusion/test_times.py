"""Time samplers as quadrature rules: unbiased unless listed, inside the range, bit-equal however they are run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskdiff_jax.diffusion.process import PROCESSES, coeffs, log_snr
from maskdiff_jax.diffusion.times import TIMES, sample

BIASED = {"logit_normal", "edm_lognormal"}  # their papers prefer some noise levels on purpose


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", TIMES)
def test_draws_stay_in_the_training_range(name, process):
    process = PROCESSES[process]()
    t, weight = sample(TIMES[name](), process, jax.random.key(0), 4096)
    assert t.shape == weight.shape == (4096,)
    assert np.all(t >= process.t_min) and np.all(t <= process.t_max)
    edges, _ = TIMES[name]().quantile(process, jnp.array([0.0, 1 - 2**-24]))
    assert np.all(np.isfinite(edges)) and np.all(edges >= process.t_min) and np.all(edges <= process.t_max)


@pytest.mark.parametrize("name", TIMES)
def test_weighted_mean_is_the_integral_unless_listed_biased(name):
    process = PROCESSES["linear_flow"]()
    f = lambda t: jnp.exp(-3 * t) + t**2  # noqa: E731
    t, weight = sample(TIMES[name](), process, jax.random.key(1), 200_000)
    values = weight * f(t)
    grid = jnp.linspace(process.t_min, process.t_max, 20_001)
    bias = abs(float(values.mean() - f(grid).mean())) / (float(values.std()) / 200_000**0.5)
    assert bias > 20 if name in BIASED else bias < 4.5


@pytest.mark.parametrize("of", [name for name in TIMES if name != "stratified"])
def test_stratified_keeps_the_distribution_and_cuts_the_variance(of):
    process, b = PROCESSES["cosine"](), 64
    keys = jax.random.split(jax.random.key(2), 2000)
    mean = lambda times: jax.vmap(lambda k: jnp.mean(sample(times, process, k, b)[0]))(keys)  # noqa: E731
    plain, even = mean(TIMES[of]()), mean(TIMES["stratified"](of=of))
    assert abs(float(even.mean() - plain.mean())) < 5 * float(plain.std()) / 2000**0.5
    assert even.var() < 0.05 * plain.var()


def test_discrete_uniform_hits_every_entry_of_its_table_equally():
    process = PROCESSES["ddpm_linear"]()
    t, _ = TIMES["discrete_uniform"](steps=10).quantile(process, (jnp.arange(1000) + 0.5) / 1000)
    values, counts = np.unique(np.round(np.asarray(t), 6), return_counts=True)
    np.testing.assert_allclose(values, np.arange(1, 11) / 10, rtol=1e-6)
    assert set(counts) == {100}


def test_lognormal_has_the_stated_moments_of_log_sigma():
    process = PROCESSES["edm"]()
    t, _ = sample(TIMES["edm_lognormal"](mean=-1.2, std=1.2), process, jax.random.key(3), 100_000)
    log_sigma = -log_snr(coeffs(process, t)) / 2
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.02)


@pytest.mark.parametrize("name", TIMES)
def test_draws_are_bit_equal_eager_jitted_and_on_eight_devices(name):
    process, times = PROCESSES["linear_flow"](), TIMES[name]()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    key = jax.random.key(4)
    eager = times.draw(key, 64)
    for shardings in (None, NamedSharding(mesh, PartitionSpec("data"))):
        np.testing.assert_array_equal(eager, jax.jit(lambda k: times.draw(k, 64), out_shardings=shardings)(key))
    spread = jax.jit(
        lambda k: sample(times, process, k, 64)[0], out_shardings=NamedSharding(mesh, PartitionSpec("data"))
    )
    np.testing.assert_allclose(spread(key), sample(times, process, key, 64)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: TIMES["stratified"](of="nope"), "choose from uniform"),
        (lambda: TIMES["discrete_uniform"](steps=0), "got 0"),
        (lambda: TIMES["logit_normal"](std=0), "got 0"),
        (lambda: TIMES["edm_lognormal"](std=-1), "got -1"),
    ],
)
def test_bad_options_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
