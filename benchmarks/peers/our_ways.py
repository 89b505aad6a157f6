"""Our side of each job, in a process without PyTorch. XLA has a thread for each core that the process may use.

The process keeps freed memory and multiplies with Eigen, as the trainer's does.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import ours, setups
from benchmarks.peers.jobs import Way
from benchmarks.peers.setups import Recipe, Setup
from maskdiff_jax.machine import keep_freed_memory, multiply_with_eigen
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import init_state
from maskdiff_jax.train.step import jit_step

keep_freed_memory(os.environ)
multiply_with_eigen(os.environ)


def about(device: str) -> dict[str, Any]:
    return provenance({"device": device})


def flops(device: str, setup: Setup) -> float:
    """FLOPs of training on one image."""
    return ours.flops_of(setup, setups.DTYPES[device])


def begin(device: str, share: float) -> None:
    """Nothing to do: what is compiled holds no arrays to speak of, and the environment has the ``share`` of memory."""


def training(setup: Setup, device: str, calls: int) -> dict[str, Way]:
    """``calls`` of the trainer's compiled steps in a call, on one batch."""
    recipe, dtype, raw = Recipe(), setups.DTYPES[device], ours.raw_of(setup)
    model, optimizer = ours.model_of(setup, dtype), ours.optimizer_of(recipe)
    held = [init_state(model, optimizer, jax.random.key(setups.SEED), make_mesh(jax.devices()[:1]))]
    step = jit_step(ours.step_of(setup, recipe, dtype), held[0])
    placed, root = jax.device_put(raw), jax.random.key(2)

    def run() -> None:
        for _ in range(calls):
            held[0], _ = step(held[0], placed, root)
        jax.block_until_ready(held[0])

    return {"ours": run}


def sampling(setup: Setup, device: str, calls: int) -> dict[str, Way]:
    """``calls`` batches of images by Euler's method in a call."""
    dtype = setups.DTYPES[device]
    params = jax.jit(ours.model_of(setup, dtype).init)(jax.random.key(setups.SEED))
    sampler = ours.sampler_of(setup, dtype)
    given = jax.device_put((ours.noise_of(setup), ours.raw_of(setup).label))

    def run() -> None:
        for _ in range(calls):
            images = sampler(params, *given)
        images.block_until_ready()

    return {"ours": run}


def product(shape: tuple[int, int, int], device: str, calls: int) -> dict[str, Way]:
    """``calls`` products of two float32 matrices in a call."""
    rows, inner, columns = shape
    random, multiply = np.random.default_rng(0), jax.jit(jnp.matmul)
    left, right = (jnp.asarray(random.standard_normal(s, np.float32)) for s in ((rows, inner), (inner, columns)))

    def run() -> None:
        for _ in range(calls):
            result = multiply(left, right)
        result.block_until_ready()

    return {"ours": run}


KINDS = {"training": training, "sampling": sampling, "product": product}
OPTIONAL: frozenset[str] = frozenset()
