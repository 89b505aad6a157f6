"""What a run will cost, before it starts and without reading an image: parameters, FLOPs, tokens, bytes per device.

    python -m maskdiff_jax.main --mode=plan --config=configs/cifar_sparse.py [--devices=8] [--memory=80]

A data set that is not there yet can be described: ``--config.data.name=maskdiff_jax.plan:shape_only
--config.data.height=32 --config.data.width=32 --config.data.channels=4 --config.data.classes=1000``.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment, abstract_batch, make_sample, mesh_for, strength
from maskdiff_jax.data import ingest
from maskdiff_jax.data.described import shape_only as shape_only
from maskdiff_jax.masks import VISIBILITIES
from maskdiff_jax.parts import ConfigError, checked, part
from maskdiff_jax.stages import build_stages, flops_per_image
from maskdiff_jax.tokens import segments
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.flops import count_flops
from maskdiff_jax.train.parallel import ENGINES, batch_sharding, check_batch, replicated
from maskdiff_jax.train.state import abstract_state
from maskdiff_jax.train.step import jit_step, make_step

GIB = 2**30

# On a CPU machine code is what compiling takes long for. It decides speed; the buffers are settled before.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def plan(config: ConfigDict, *, devices: int | None = None, memory: float | None = None) -> list[dict[str, Any]]:
    """Print the plan of a run of ``config`` and return it: what `estimate` finds, for each stage.

    ``devices``: how many share a batch (default: those that are here); where there are fewer, the step is compiled for
    as many virtual CPU devices. ``memory``: GiB of each device, by default what the device itself reports.
    Raises ConfigError, in one line, for a config that cannot be built, and after the table for one that cannot fit.
    """
    if memory is not None and not memory > 0:
        raise ConfigError(f"--memory={memory}: the GiB of a device, more than 0")
    chosen = choose_devices(devices)
    found = []
    for stage in build_stages(config):
        found.append(estimate(stage.experiment, chosen, None if memory is None else round(memory * GIB)))
        print(format_plan(stage.experiment, found[-1], f"stage {stage.name}" if stage.name else "a run"))
    for plan_of_stage in found:
        check_fit(plan_of_stage)
    return found


def choose_devices(count: int | None) -> list[Any]:
    """``count`` of the devices that are here, or as many virtual CPU devices; all that are here by default."""
    if count is None:
        return jax.devices()
    with suppress(RuntimeError):  # once jax has started, the number stands
        jax.config.update("jax_num_cpu_devices", count)
    here = jax.devices() if jax.device_count() >= count else jax.devices("cpu")
    if len(here) < count:
        raise ConfigError(f"--devices={count}: jax has started with {len(here)}")
    return here[:count]


def estimate(experiment: Experiment, devices: Sequence[Any], memory: int | None = None) -> dict[str, Any]:
    """The plan of an experiment on ``devices``, as plain numbers; compiles the training step, computes nothing.

    ``flops`` are analytic (matrix products and convolutions; training is 3 × forward). ``bytes_per_device`` count one
    training step: ``state`` (= parameters + optimizer + averages) by shapes and shardings, ``data`` the images that
    stay on the device, ``batch`` what each step is sent, ``temporary`` what the compiler of the devices' backend sets
    aside, activations and gradients above all. ``compiler`` holds that compiler's own figures for comparison.
    ``memory`` is what a device has, where that is known. Raises ConfigError for a batch that does not divide.
    """
    config, mesh = experiment.config, mesh_for(experiment.config, devices)
    checked("batch", check_batch, config.batch, mesh.size, config.accumulate)
    state = abstract_state(experiment.model, experiment.optimizer, mesh)
    raw, table = step_arrays(experiment, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    engine = ENGINES[config.parallel.engine](mesh)
    step = make_step(experiment.objective, experiment.optimizer, step_ingest(experiment), config.accumulate, engine)
    backend = devices[0].platform
    lowered = jit_step(step, state).lower(state, raw, key, table)
    found: Any = lowered.compile(_QUICK if backend == "cpu" else None).memory_analysis()

    averages = [get_ema(state.opt_state, decay) for decay in config.ema]
    sizes = {"state": nbytes(state), "parameters": nbytes(state.params), "averages": nbytes(averages)}
    sizes["optimizer"] = sizes["state"] - sizes["parameters"] - sizes["averages"]
    sizes |= {"data": nbytes(table), "batch": nbytes(raw), "temporary": found.temp_size_in_bytes}
    sizes["total"] = sum(sizes[name] for name in ("state", "data", "batch", "temporary"))
    return {
        "devices": {"count": mesh.size, "kind": devices[0].device_kind},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "tokens": _tokens(experiment),
        "flops": count_work(experiment),
        "bytes_per_device": sizes,
        "compiler": {
            "backend": backend,
            "jax": jax.__version__,
            "arguments": found.argument_size_in_bytes,
            "temporary": found.temp_size_in_bytes,
        },
        "memory": (devices[0].memory_stats() or {}).get("bytes_limit") if memory is None else memory,
    }


def count_work(experiment: Experiment) -> dict[str, float]:
    """Analytic FLOPs of training, and of drawing an image as ``config.sample`` says."""
    config, image = experiment.config, flops_per_image(experiment)
    generate = make_sample(experiment, config.sample)
    params = jax.eval_shape(experiment.model.init, jax.random.key(0))
    sampling = count_flops(generate, params, _one_key(), abstract_batch(experiment, 1).cond)
    step = image * config.batch
    return {
        "training_image": image,
        "training_step": step,
        "training_run": step * config.steps,
        "sampling_image": sampling,
    }


def check_fit(found: dict[str, Any]) -> None:
    """Raise ConfigError, saying by how much, where a device is known to have less memory than a plan needs."""
    needs, has = found["bytes_per_device"], found["memory"]
    if has is not None and needs["total"] > has:
        raise ConfigError(
            f"does not fit: a training step needs {_bytes(needs['total'])} on each device, of which the state is "
            f"{_bytes(needs['state'])}, and there are {_bytes(has)}: {_bytes(needs['total'] - has)} too much"
        )


def nbytes(tree: Any) -> int:
    """Bytes on each device of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def format_plan(experiment: Experiment, found: dict[str, Any], of: str = "a run") -> str:
    """The table that `plan` prints."""
    config, devices, tokens, compiler = experiment.config, found["devices"], found["tokens"], found["compiler"]
    flops = {name: f"{_number(count)}FLOPs" for name, count in found["flops"].items()}
    size = {name: _bytes(count) for name, count in found["bytes_per_device"].items()}
    memory = _bytes(found["memory"]) if found["memory"] else "an unknown memory: name it with --memory=GiB"
    guidance = config.sample.guidance
    scale = guidance[strength(guidance)]
    sample = f"{config.sample.sampler.name}, {config.sample.steps} steps, guidance {scale:g}"
    rows = {
        "parameters": f"{found['parameters'] / 1e6:.2f} M",
        "tokens": f"{tokens['visible']} of {tokens['total']} visible in training" if tokens else "none",
        "training": f"{flops['training_image']} an image, {flops['training_step']} a step, "
        f"{flops['training_run']} in {config.steps:,} steps",
        "sampling": f"{flops['sampling_image']} an image ({sample})",
        "state": f"{size['state']}: parameters {size['parameters']}, optimizer {size['optimizer']}, "
        f"averages {size['averages']}",
        "data": f"{size['data']} ({'resident' if config.resident else 'streamed'})",
        "batch": f"{size['batch']} ({config.batch // devices['count']} images)",
        "temporary": f"{size['temporary']}: activations and gradients, by the {compiler['backend']} compiler of jax "
        f"{compiler['jax']}; other backends differ",
        "total": f"{size['total']} of {memory}",
    }
    lines = [f"  {name:<11}{text}" for name, text in rows.items()]
    lines.insert(4, f"each of {devices['count']} x {devices['kind']}, during a training step")
    title = f"{config.name}, {of}" if config.name else of
    return "\n".join([f"plan of {title}: batch {config.batch}, {experiment.dataset.name}", *lines])


def step_arrays(experiment: Experiment, mesh: Mesh) -> tuple[Any, Any]:
    """Shapes of what the data pipeline sends with each step, and of the table that stays on the device or None."""
    dataset, config = experiment.dataset, experiment.config

    def records(n: int, sharding: Any) -> dict[str, Any]:
        known = dataset.records.items()
        return {name: jax.ShapeDtypeStruct((n, *s), dtype, sharding=sharding) for name, (s, dtype) in known}

    cut = batch_sharding(mesh)
    numbers = np.arange(config.batch)
    small = {
        "index": numbers.astype(np.int32),
        "controls": experiment.augment.controls(config.seed, numbers, dataset.shape),
    }
    raw = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), small)
    if config.resident:
        return raw, records(len(dataset.train), replicated(mesh))
    return raw | records(config.batch, cut), None


def step_ingest(experiment: Experiment) -> Any:
    """``ingest(raw, tables) -> Batch`` as the trainer has it: `data.ingest` with the controls that are conditions."""
    condition = experiment.config.condition
    return partial(ingest, experiment.augment, high=tuple(condition.controls_high), low=tuple(condition.controls_low))


def _tokens(experiment: Experiment) -> dict[str, int] | None:
    if experiment.model.tokens is None:
        return None
    visibility = part("visibility", VISIBILITIES, experiment.config.visibility)
    grids = [segment.grid for segment in segments(experiment.model.tokens)]
    visible = jax.eval_shape(lambda keys: [visibility.sample(keys, grid) for grid in grids], _one_key())
    return {"total": sum(map(math.prod, grids)), "visible": sum(ids.shape[1] for ids in visible)}


def _one_key() -> Any:
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))


def _bytes(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.2f} MiB"


def _number(count: float) -> str:
    """Three digits and an SI prefix: 1.23 T."""
    power = min(int(math.log10(count)) // 3, 7) if count >= 1 else 0
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z')[power]}"
