"""How fast a config is on this machine, without its data: compiling, steps, images/s, MFU, memory, input, sampling;
and where the time of a step goes, part by part, against what this machine allows.

    python -m maskdiff_jax.main --mode=benchmark --config=configs/cifar_sparse.py [--only=step,sampling --rounds=10]
    python -m maskdiff_jax.main --mode=benchmark --config=configs/cifar_maskdm.py --sweep=ratio,batch

The step is the trainer's own, on one batch of noise that stays on the device. MFU is the share of what a large matrix
product reaches here, in the arithmetic of the network. Prints a table; ``--out`` writes it as JSON, a sweep a picture.
"""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import benchmark_roofline
from maskdiff_jax.benchmark_roofline import Ceilings
from maskdiff_jax.benchmark_text import format_parts, format_sweeps, picture
from maskdiff_jax.build import Experiment, mesh_for
from maskdiff_jax.data import DataError, feed
from maskdiff_jax.inference import condition, generator, labels_for
from maskdiff_jax.models.kernels import choices
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.plan import nbytes, step_arrays, step_ingest
from maskdiff_jax.stages import build_stages, flops_per_image
from maskdiff_jax.train.ceilings import copy_rate, matmul_rate, seconds_of
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.parallel import ENGINES, batch_sharding
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import abstract_state, init_state
from maskdiff_jax.train.step import jit_step, make_step
from maskdiff_jax.types import Tokens

SIDES = {"cpu": 1024}  # of the matrices, by platform; elsewhere
SIDE = 8192
MEGABYTES = {"cpu": 64}
LARGE = 1024
INPUT_SECONDS = 2.0


class Bench:
    """An experiment on some of the devices, and what several measurements of it share."""

    def __init__(self, experiment: Experiment, devices: Sequence[Any], rounds: int):
        self.experiment, self.config, self.rounds = experiment, experiment.config, rounds
        self.devices, self.mesh = devices, mesh_for(experiment.config, devices)
        self._products: dict[str, float] = {}

    @cached_property
    def dtype(self) -> str:
        return self.config.model.get("dtype", "float32")

    @cached_property
    def flops(self) -> float:
        return flops_per_image(self.experiment)

    def product(self, dtype: str) -> float:
        """FLOP/s of one device at a large matrix product, measured once for each arithmetic."""
        if dtype not in self._products:
            self._products[dtype] = matmul_rate(dtype, SIDES.get(self.devices[0].platform, SIDE), self.rounds)
        return self._products[dtype]

    @cached_property
    def ceilings(self) -> Ceilings:
        """Of one device, in the arithmetic of the network."""
        megabytes = MEGABYTES.get(self.devices[0].platform, LARGE)
        return Ceilings(self.product(self.dtype), copy_rate(megabytes, self.rounds))

    @cached_property
    def step(self) -> dict[str, Any]:
        """See `step`: measured once."""
        return _measured_step(self)

    @cached_property
    def state(self) -> Any:
        return init_state(self.experiment.model, self.experiment.optimizer, jax.random.key(0), self.mesh)


def ceilings(bench: Bench) -> dict[str, float]:
    """What one device does at most: matrix products in both arithmetics, and copying."""
    found = {f"matmul_{dtype}_flops": bench.product(dtype) for dtype in ("float32", "bfloat16")}
    return found | {"copy_bytes": bench.ceilings.bytes}


def step(bench: Bench) -> dict[str, Any]:
    """The compiled training step: its time, images a second, FLOP/s, share of the ceiling, and memory."""
    return bench.step


def roofline(bench: Bench) -> dict[str, Any]:
    """The parts of a step, each alone: see `benchmark_roofline.roofline`."""
    seconds = bench.step["seconds"]
    rows = benchmark_roofline.roofline(bench.experiment, bench.devices, bench.ceilings, seconds, bench.rounds)
    return {"ceilings": bench.ceilings._asdict(), "rows": rows}


def _measured_step(bench: Bench) -> dict[str, Any]:
    e, config = bench.experiment, bench.config
    engine = ENGINES[config.parallel.engine](bench.mesh)
    whole = make_step(e.objective, e.optimizer, step_ingest(e), config.accumulate, engine)
    shapes, table = step_arrays(e, bench.mesh)
    assert table is None  # the config is not resident
    abstract = abstract_state(e.model, e.optimizer, bench.mesh)
    began = time.perf_counter()
    compiled = jit_step(whole, abstract).lower(abstract, shapes, jax.random.key(0), None).compile()
    compiling = time.perf_counter() - began
    raw = noise_batch(e, shapes)
    state, key = bench.state, jax.random.key(0)

    def call() -> Any:
        nonlocal state
        state, measured = compiled(state, raw, key, None)
        return measured["loss"]

    seconds = seconds_of(call, bench.rounds)
    del bench.__dict__["state"]  # its buffers were donated
    median = float(np.median(seconds))
    rate = bench.flops * config.batch / median
    stats: Any = bench.devices[0].memory_stats() or {}
    memory: Any = compiled.memory_analysis()
    return {
        "compile_seconds": compiling,
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "images_per_second": config.batch / median,
        "flops_per_second": rate,
        "mfu": rate / (bench.product(bench.dtype) * len(bench.devices)),
        "state_bytes": nbytes(abstract),
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def pipeline(bench: Bench) -> dict[str, Any]:
    """The input pipeline alone, decoding and transfer included; null without the data."""
    e, config = bench.experiment, bench.config
    try:
        data = feed(e.dataset.train, config.batch, config.seed, e.augment, sharding=batch_sharding(bench.mesh))
        batches = data.batches
        jax.block_until_ready(next(batches))
    except (DataError, OSError) as error:
        return {"images_per_second": None, "why": str(error).splitlines()[0]}
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < INPUT_SECONDS:
        jax.block_until_ready(next(batches))
        count += config.batch
    seconds = time.perf_counter() - began
    batches.close()
    return {"images_per_second": count / seconds}


def sampling(bench: Bench) -> dict[str, Any]:
    """Images a second of ``config.sample``, in batches of ``evaluate.batch``."""
    e, settings = bench.experiment, bench.config.sample
    num = bench.config.evaluate.batch
    labels = labels_for(e, None, num)
    generate, cond = generator(e, settings), condition(e, labels, num)
    params = bench.state.params
    seconds = seconds_of(lambda: generate(params, num, cond), bench.rounds, least=0)
    return {"images_per_second": num / float(np.median(seconds)), "steps": settings.steps}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "ceilings": ceilings,
    "step": step,
    "roofline": roofline,
    "input": pipeline,
    "sampling": sampling,
}


def sweep_batch(config: ConfigDict) -> list[tuple[float, dict[str, Any]]]:
    """A quarter of the batch to four times it."""
    sizes = sorted({max(1, int(config.batch * factor)) for factor in (0.25, 0.5, 1, 2, 4)})
    return [(size, {"batch": size, "accumulate": 1}) for size in sizes]


def sweep_tokens(config: ConfigDict) -> list[tuple[float, dict[str, Any]]]:
    """The tokens of an image, by patches of half, once, twice and four times the size, where they divide it."""
    tokens = build_stages(config)[0].experiment.model.tokens
    if not isinstance(tokens, Tokens):
        raise ConfigError(f"--sweep=tokens: {config.model.name!r} has no patches of one size to change")
    (rows, columns), patch = tokens.grid, tokens.patch
    sides = [patch * factor // 2 for factor in (8, 4, 2, 1) if patch * factor % 2 == 0]
    height, width = rows * patch, columns * patch
    fit = [side for side in sides if height % side == width % side == 0]
    return [(height * width // side**2, {"model": config.model.to_dict() | {"patch": side}}) for side in fit]


def sweep_ratio(config: ConfigDict) -> list[tuple[float, dict[str, Any]]]:
    """The share of tokens that is hidden, patch by patch."""
    return [(ratio, {"visibility": {"name": "patch", "ratio": ratio}}) for ratio in (0.0, 0.25, 0.5, 0.75, 0.9)]


def sweep_devices(config: ConfigDict) -> list[tuple[float, dict[str, Any]]]:
    """One device, two, four, … up to all of them, of the same batch."""
    counts = [2**i for i in range(jax.device_count().bit_length()) if config.batch % 2**i == 0]
    return [(count, {}) for count in counts]


SWEEPS: dict[str, Callable[[ConfigDict], list[tuple[float, dict[str, Any]]]]] = {
    "batch": sweep_batch,
    "tokens": sweep_tokens,
    "ratio": sweep_ratio,
    "devices": sweep_devices,
}


def benchmark(
    config: ConfigDict,
    *,
    only: Sequence[str] = (),
    sweep: Sequence[str] = (),
    rounds: int = 5,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure ``only`` some of `PARTS` (default: all), or the step along some of `SWEEPS`; print and return it.

    ``out``: a JSON file; the picture of the sweeps stands beside it. Of a config with stages, the first is measured.
    Raises ConfigError for an unknown name, or an ``out`` that exists.
    """
    for name in only:
        if name not in PARTS:
            raise ConfigError(f"--only: unknown {name!r}; choose from {', '.join(PARTS)}")
    for name in sweep:
        if name not in SWEEPS or only:
            raise ConfigError(f"--sweep: {name!r}: choose from {', '.join(SWEEPS)}, without --only")
    if out is not None and Path(out).exists():
        raise ConfigError(f"--out: {out} exists: name another file")
    config.resident = False  # the batch stays on the device
    title = config.name or config.model.name
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}
    if not sweep:
        bench = Bench(build_stages(config)[0].experiment, jax.devices(), rounds)
        found |= {name: PARTS[name](bench) for name in only or PARTS}
        found["attention"] = [case._asdict() | choice._asdict() for case, choice in choices().items()]
        text = format_parts(title, found)
    else:
        along = {name: SWEEPS[name](config) for name in dict.fromkeys(sweep)}  # all of them checked before any is run
        found["sweeps"] = {name: _swept(config, name, values, rounds) for name, values in along.items()}
        text = format_sweeps(title, found)
    print(text)
    if out is not None:
        write_json(out, found | {"provenance": provenance(config.to_dict())})
        if sweep:
            write_atomically(Path(out).with_suffix(".png"), picture(title, found["sweeps"]))
    return found


def noise_batch(experiment: Experiment, shapes: dict[str, Any]) -> Any:
    """A raw batch of noise in the shapes of the data's, with labels among its classes, on the devices."""
    random = np.random.default_rng(0)
    classes = max(experiment.dataset.classes, 1)

    def leaf(shape: jax.ShapeDtypeStruct, high: int) -> jax.Array:
        drawn = random.integers(0, high, shape.shape).astype(shape.dtype)
        return jax.make_array_from_callback(shape.shape, shape.sharding, lambda index: drawn[index])

    high = {"image": 256, "label": classes, "index": 1}
    own = {name: leaf(shape, high.get(name, 1)) for name, shape in shapes.items() if name != "controls"}
    numbers = np.arange(experiment.config.batch)
    controls = experiment.augment.controls(experiment.config.seed, numbers, experiment.dataset.shape)
    put = lambda shape, x: jax.make_array_from_callback(x.shape, shape.sharding, lambda index: x[index])  # noqa: E731
    return own | {"controls": jax.tree.map(put, shapes["controls"], controls)}


def _swept(
    config: ConfigDict, sweep: str, values: list[tuple[float, dict[str, Any]]], rounds: int
) -> list[dict[str, Any]]:
    rows = []
    for value, changes in values:
        own = config.copy_and_resolve_references()
        with own.ignore_type():
            for key, change in changes.items():
                own[key] = ConfigDict(change) if isinstance(change, dict) else change
        devices = jax.devices()[: int(value)] if sweep == "devices" else jax.devices()
        bench = Bench(build_stages(own)[0].experiment, devices, rounds)
        rows.append({sweep: value, "flops_per_image": bench.flops, **step(bench)})
    return rows
