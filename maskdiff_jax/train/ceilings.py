"""What the machine can do at most, measured on the spot: matrix products and copying."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SECONDS = 0.3  # of a timing, at least


def seconds_of(call: Callable[[], Any], rounds: int = 5, least: float = SECONDS) -> list[float]:
    """Seconds of one ``call()``, once for each round: of as many calls in a row as take ``least`` seconds.

    The first calls, which compile and warm up, are not timed; every timing ends when the device is done.
    """
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, round(least / max(time.perf_counter() - began, 1e-9)))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        found.append((time.perf_counter() - began) / count)
    return found


def matmul_rate(dtype: str, side: int, rounds: int = 5) -> float:
    """FLOP/s of one device at the product of two square matrices, the median over the rounds."""
    a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in range(2))
    product = jax.jit(lambda a, b: a @ b)
    return 2 * side**3 / float(np.median(seconds_of(lambda: product(a, b), rounds)))


def copy_rate(megabytes: int, rounds: int = 5) -> float:
    """Bytes a second of one device that reads an array and writes another, both counted; the median."""
    x = jnp.zeros((megabytes * 2**18,), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / float(np.median(seconds_of(lambda: add(x), rounds)))
