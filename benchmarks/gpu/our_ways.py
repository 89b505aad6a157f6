"""Our side of the GPU's cases: that of `benchmarks.peers`, hidden tokens, and data that stay on the device."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers import our_ways, ours, setups
from benchmarks.peers.jobs import Way
from benchmarks.peers.our_ways import OPTIONAL as OPTIONAL
from benchmarks.peers.our_ways import about as about
from benchmarks.peers.our_ways import begin as begin
from benchmarks.peers.our_ways import flops as flops
from benchmarks.peers.setups import Recipe, Setup
from maskdiff_jax.data import ArraySource, Feed, feed
from maskdiff_jax.data.augment import flip
from maskdiff_jax.train.ceilings import matmul_rate
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.state import init_state
from maskdiff_jax.train.step import jit_step, make_step


def ceiling(device: str, side: int) -> float:
    """FLOP/s of a product of square matrices in the arithmetic of the cases."""
    return matmul_rate(setups.DTYPES[device], side)


def peak_bytes(device: str) -> int | None:
    """The most memory that was in use at a time, where jax tells."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def masked(entry: tuple[Setup, tuple[float, ...]], device: str, calls: int) -> dict[str, Way]:
    """The training step with each share of tokens hidden, under the share's name."""
    setup, shares = entry
    return {str(share): our_ways.training(setup._replace(masked=share), device, calls)["ours"] for share in shares}


def on_device(setup: Setup, images: int) -> Feed:
    """Batches of random uint8 images that stay on the device, mirrored there at random.

    As the trainer has them, but that indices are drawn as they are asked for, without a thread that is ahead.
    """
    random = np.random.default_rng(4)
    pixels = random.integers(0, 256, (images, *setup.shape), np.uint8)
    source = ArraySource(pixels, random.integers(0, setup.classes, images).astype(np.int32))
    sharding = batch_sharding(make_mesh(jax.devices()[:1]))
    return feed(source, setup.batch, 0, flip(), sharding=sharding, resident=True, prefetch=0)


def resident(entry: tuple[Setup, int], device: str, calls: int) -> dict[str, Way]:
    """``data``: steps on so many images that stay on the device; ``constant``: on one batch that is ready."""
    setup, images = entry
    recipe, dtype, data = Recipe(), setups.DTYPES[device], on_device(setup, images)
    objective, optimizer = ours.objective_of(setup, dtype), ours.optimizer_of(recipe)
    model, mesh = ours.model_of(setup, dtype), make_mesh(jax.devices()[:1])
    state = init_state(model, optimizer, jax.random.key(setups.SEED), mesh)
    step, held, root = jit_step(make_step(objective, optimizer, data.ingest), state), [state], jax.random.key(2)

    def run() -> Any:
        for _ in range(calls):
            held[0], _ = step(held[0], next(data.batches), root, data.table)
        jax.block_until_ready(held[0])

    return {"constant": our_ways.training(setup, device, calls)["ours"], "data": run}


KINDS = {**our_ways.KINDS, "masked": masked, "resident": resident}
