"""Planted errors are found with their size; an exact denoiser has none beyond its standard errors."""

import math
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import rng
from maskdiff_jax.diffusion.process import coeffs, linear_flow
from maskdiff_jax.evaluate.bias import colour_shift, make_bias, make_colour_shift, middle_times, samples_by_steps
from maskdiff_jax.evaluate.heldout import level_edges
from maskdiff_jax.samplers import SPACINGS, ddim
from maskdiff_jax.types import Batch, Cond, Denoised, Times
from tests.samplers import analytic

PROCESS = linear_flow()
SHAPE = (4, 4, 3)
MEAN, STD = 0.1, 0.2
TIMES = (PROCESS.t_min, 0.1, 0.5, 0.9, PROCESS.t_max)
PLANT = np.array([0.1, -0.05, 0.0], np.float32)
EXACT = analytic.gaussian(PROCESS, MEAN, STD)


def planted(params):
    """Exact for N(MEAN, STD²), but for the offset ``params`` [3] of the channels and the label of the image."""

    def denoiser(x, t, cond):
        label = 0 if cond.label is None else cond.label[:, None, None, None]
        return Denoised(EXACT(x, t, cond).x + params[None, None, None] + label)

    return denoiser


def real(n=400, seed=0):
    return np.float32(MEAN + STD * np.random.default_rng(seed).standard_normal((n, *SHAPE)))


@cache
def bias():
    return make_bias(planted, PROCESS, TIMES, batch_size=64)


@cache
def without():
    return bias()(np.zeros(3, np.float32), Batch(real()))


def test_an_exact_denoiser_has_no_offset_and_the_errors_of_the_posterior():
    """The posterior of N(MEAN, STD²) data has the variance STD²·sigma²/(alpha²·STD² + sigma²); eps has SNR times it."""
    for row, t in zip(without(), TIMES, strict=True):
        alpha, sigma = (float(value) for value in coeffs(PROCESS, t)[:2])
        variance = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)
        assert row.t == t
        assert (np.abs(row.offset) < 4 * np.array(row.offset_error)).all()
        assert abs(row.mse_x - variance) < 4 * row.mse_x_error
        np.testing.assert_allclose([row.mse_eps, row.mse_eps_error], np.multiply(alpha**2 / sigma**2, row[1:3]), 1e-4)
        # 400 images of 16 pixels for each channel, 48 elements in all: known, but for a chance of 1/√(2·399)
        np.testing.assert_allclose(row.offset_error, math.sqrt(variance / 16 / 400), rtol=4 / math.sqrt(2 * 399))
        np.testing.assert_allclose(row.mse_x_error, variance * math.sqrt(2 / 48 / 400), rtol=0.2)


def test_a_planted_offset_is_found_with_its_size():
    """For each channel to the last digits, since the noise is the same, and with what it adds to the squared error."""
    for row, plain in zip(bias()(PLANT, Batch(real())), without(), strict=True):
        np.testing.assert_allclose(np.subtract(row.offset, plain.offset), PLANT, atol=1e-6)
        np.testing.assert_allclose(row.offset_error, plain.offset_error, atol=1e-6)
        added = np.mean(PLANT**2 + 2 * PLANT * np.array(plain.offset))
        assert row.mse_x - plain.mse_x == pytest.approx(added, abs=1e-6)
        found = np.abs(row.offset) > 4 * np.array(row.offset_error)
        np.testing.assert_array_equal(found[:2], [True, True])


def test_a_point_mass_leaves_nothing_to_chance():
    """All data are one value: without an offset every figure is 0 but for rounding, with one it is the offset's."""
    images = Batch(np.full((5, *SHAPE), 0.3, np.float32))
    point = lambda params: lambda x, t, cond: Denoised(0.3 + params[None, None, None] + 0 * x)  # noqa: E731
    measure = make_bias(point, PROCESS, (0.2, 0.8))
    for row in measure(np.zeros(3, np.float32), images):
        assert max(row.mse_x, *np.abs(row.offset), *row.offset_error) < 1e-7
    for row in measure(PLANT, images):
        np.testing.assert_allclose(row.offset, PLANT, atol=1e-7)
        assert row.mse_x == pytest.approx(np.mean(PLANT**2), rel=1e-5) and row.mse_x_error < 1e-9


def test_every_image_counts_once_with_its_own_condition():
    """n is no multiple of the batch: the offset is the mean label, its standard error that of the labels."""
    labels = np.arange(100, dtype=np.float32)
    rows = bias()(np.zeros(3, np.float32), Batch(real(100), Cond(label=labels)))
    np.testing.assert_allclose(rows[2].offset, labels.mean(), atol=0.1)
    np.testing.assert_allclose(rows[2].offset_error, labels.std(ddof=1) / 10, rtol=1e-2)


def test_neither_batch_size_nor_devices_nor_other_times_matter():
    """One trace for all t; the noise of an image is its own, whatever else is measured, and changes with the seed."""
    traces = []

    def traced(params):
        traces.append(params.shape)
        return planted(params)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    place = lambda tree: jax.device_put(tree, spread)  # noqa: E731
    rows = make_bias(traced, PROCESS, TIMES[::-2], batch_size=24, place=place)(np.zeros(3, np.float32), Batch(real()))
    assert traces == [(3,)]
    for ours, theirs in zip(rows, without()[::-2], strict=True):
        for value, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-7)
    other = make_bias(planted, PROCESS, (0.5,), seed=1)(np.zeros(3, np.float32), Batch(real()))
    assert abs(other[0].mse_x - without()[2].mse_x) > 1e-7


def test_middle_times_are_those_of_the_held_out_levels():
    squared = Times(lambda key, b: jnp.zeros(b), lambda process, u: (u * u, u))
    for times in (None, squared):
        edges, middle = level_edges(PROCESS, 8, times), middle_times(PROCESS, 4, times)
        np.testing.assert_allclose(middle, edges[1::2], rtol=1e-5)


@pytest.mark.parametrize("t", [(), (0.5, 1.0), (0.0,), (float("nan"),)])
def test_times_outside_the_range_are_refused(t):
    with pytest.raises(ValueError, match="one or more numbers in"):
        make_bias(planted, PROCESS, t)


def test_one_image_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        bias()(PLANT, Batch(real(1)))


def by_steps(denoiser_of, steps, count=64, images=None, **options):
    sample_of = samples_by_steps(denoiser_of, ddim(PROCESS), PROCESS, SPACINGS["uniform"](), SHAPE)
    measure = make_colour_shift(sample_of, steps, **{"batch_size": 32, **options})
    return measure(PLANT, real() if images is None else images, count)


def ddim_by_hand(steps, noise):
    """x_s = alpha_s·x̂ + sigma_s·eps̑ from one t to the next, on the linear flow, in float64."""
    times = np.asarray(SPACINGS["uniform"]()(PROCESS, steps), np.float64)
    x = noise
    for t, s in pairwise(times):
        gain = (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2)
        clean = MEAN + gain * (x - (1 - t) * MEAN)
        x = (1 - s) * clean + s * (x - (1 - t) * clean) / t
    return x


def test_samples_of_a_gaussian_shift_as_ddim_does():
    """From the noise that all numbers of steps share; the finest ones are those of the data."""
    rows = by_steps(lambda params: EXACT, (8, 2), images=real(200))
    assert [row.steps for row in rows] == [2, 8]
    keys = rng.per_image(rng.key_for(jax.random.key(0), "generate"), 64)
    noise = np.float64(rng.normal(rng.key_for(keys, "initial_noise"), SHAPE)) * PROCESS.t_max
    means = {n: ddim_by_hand(n, noise).clip(-1, 1).mean(axis=(1, 2)) for n in (2, 8)}
    truth = real(200).mean(axis=(1, 2), dtype=np.float64)
    for row, seen in zip(rows, means.values(), strict=True):
        d = seen - means[8]
        np.testing.assert_allclose(row.shift, np.abs(d).mean(axis=0), atol=2e-6)
        np.testing.assert_allclose(row.shift_error, np.abs(d).std(axis=0, ddof=1) / 8, atol=2e-6)
        tint = np.linalg.norm(d - d.mean(axis=1, keepdims=True), axis=1)
        assert row.chroma == pytest.approx(tint.mean(), abs=2e-6)
        assert row.chroma_error == pytest.approx(tint.std(ddof=1) / 8, abs=2e-6)
        np.testing.assert_allclose(row.offset, seen.mean(axis=0) - truth.mean(axis=0), atol=2e-6)
        error = np.sqrt(seen.var(axis=0, ddof=1) / 64 + truth.var(axis=0, ddof=1) / 200)
        np.testing.assert_allclose(row.offset_error, error, atol=2e-6)
    assert min(rows[0].shift) > 0.01
    assert rows[1].shift == rows[1].shift_error == (0, 0, 0)
    assert (np.abs(rows[1].offset) < 4 * np.array(rows[1].offset_error)).all()


def test_the_bias_of_a_denoiser_is_that_of_its_samples_whatever_the_steps():
    """All data one value: an offset stays as it is, without one there is none."""
    images = np.full((3, *SHAPE), 0.3, np.float32)
    point = lambda params: lambda x, t, cond: Denoised(0.3 + params[None, None, None] + 0 * x)  # noqa: E731
    for row in by_steps(point, (1, 3), count=5, images=images):
        np.testing.assert_allclose(row.offset, PLANT, atol=1e-6)
        assert max(*row.shift, row.chroma, *row.offset_error) < 1e-6


def test_chroma_is_blind_to_brightness():
    """The same shift of all channels is none of chroma; against one channel's there is a closed form."""
    start = np.random.default_rng(0).normal(size=(50, 3))
    brighter, redder = start + 0.2, start + np.array([0.3, 0, 0])
    _, row, reference = colour_shift({1: start + 0.2, 5: redder, 9: start}, start)
    assert colour_shift({1: brighter, 9: start}, start)[0].chroma == pytest.approx(0, abs=1e-12)
    assert row.chroma == pytest.approx(0.3 * math.sqrt(2 / 3)) and row.chroma_error == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(row.shift, (0.3, 0, 0), atol=1e-12)
    np.testing.assert_allclose(row.offset, (0.3, 0, 0), atol=1e-12)
    assert reference.chroma == 0
    np.testing.assert_allclose(row.offset_error, start.std(axis=0, ddof=1) * math.sqrt(2 / 50))


@pytest.mark.parametrize("steps", [(), (4, 4)])
def test_steps_must_differ(steps):
    with pytest.raises(ValueError, match="steps="):
        make_colour_shift(lambda n: lambda params, keys, cond: jnp.zeros((1, *SHAPE)), steps)


@pytest.mark.parametrize(("count", "images"), [(1, 5), (5, 1)])
def test_one_sample_or_one_real_image_is_too_few(count, images):
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        colour_shift({2: np.zeros((count, 3))}, np.zeros((images, 3)))
