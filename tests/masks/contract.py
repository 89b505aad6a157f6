"""What every draw of the library promises, whatever it draws."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def on_all_devices(keys):
    """``keys`` [b] spread over the eight devices of the suite."""
    devices = jax.devices()
    assert len(devices) == 8
    return jax.device_put(keys, NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data")))


def assert_reproducible(sample) -> None:
    """``sample(keys[b]) -> [b, ...]`` draws the same bits eagerly, jitted, for a cut of the batch, on 8 devices."""
    keys = jax.random.split(jax.random.key(3), 16)
    jitted = jax.jit(sample)
    drawn, some = np.asarray(jitted(keys)), slice(4, 12)
    np.testing.assert_array_equal(sample(keys[some]), drawn[some])
    np.testing.assert_array_equal(jitted(on_all_devices(keys[some])), drawn[some])


def assert_mean(draws, expected, sigmas: float = 5.0) -> None:
    """The mean of ``draws`` [m, ...] is ``expected`` within ``sigmas`` standard errors (and float32 rounding)."""
    draws = np.asarray(draws, np.float64)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    gap = np.abs(draws.mean(axis=0) - expected)
    assert np.all(gap <= sigmas * error + 1e-5 * np.abs(expected) + 1e-7), (gap / (error + 1e-30)).max()


def assert_variance(draws, expected, sigmas: float = 5.0) -> None:
    """The variance of ``draws`` [m, ...] is ``expected``, by the standard error of the squared deviations."""
    draws = np.asarray(draws, np.float64)
    assert_mean((draws - draws.mean(axis=0)) ** 2, expected, sigmas)
