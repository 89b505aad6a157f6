"""What hiding tokens saves: a training step of U-ViT at several mask ratios, timed in turn in one run.

    python -m benchmarks.masked --out=DIR [--preset=small --batch=8 --ratios 0.75 0.9]

A step is forward, backward, optimiser (AdamW with clipping and the non-finite guard) and average. For every ratio: the
median time of a step, how many times faster than unmasked, the ratio of analytic training FLOPs, and the temporary
bytes of the compiled step. DIR gets masked.json and masked.md. ``--best-batch`` doubles the batch of each ratio while
images/s grow, which is how a GPU wants to be compared.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax.diffusion.inputs import discrete
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.prediction import eps
from maskdiff_jax.diffusion.process import ddpm_linear
from maskdiff_jax.diffusion.times import discrete_uniform
from maskdiff_jax.diffusion.weighting import constant
from maskdiff_jax.masks import dense, patch
from maskdiff_jax.models.uvit import uvit
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.flops import training_flops
from maskdiff_jax.train.optim import adamw, make_optimizer
from maskdiff_jax.train.optim import constant as constant_rate
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import TrainState, init_state
from maskdiff_jax.train.step import jit_step, make_step
from maskdiff_jax.types import Batch

SHAPE = (32, 32, 3)  # 256 tokens at patch 2


class Case(NamedTuple):
    """A compiled step at one ratio and batch, its data, and what is known before it runs."""

    ratio: float
    batch: int
    step: Any
    data: Any
    flops_per_image: float
    temporary: int


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--preset", default="small")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.75, 0.9])
    parser.add_argument("--rounds", type=int, default=5, help="timings of each ratio, taken in turn")
    parser.add_argument("--steps", type=int, default=2, help="steps of the unmasked network in a timing")
    parser.add_argument("--best-batch", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)

    start = fresh_state(options.preset, options.dtype)
    cases = {}
    for ratio in (0.0, *options.ratios):
        case = prepare(options, ratio, options.batch, start)
        cases[ratio] = best_batch(options, case, start) if options.best_batch else case
    times = {ratio: [] for ratio in cases}
    for case in cases.values():
        seconds(case, start, 1)
    for _ in range(options.rounds):
        for ratio, case in cases.items():
            times[ratio].append(seconds(case, start, options.steps if ratio == 0 else 2 * options.steps))
    rows = [row(case, times[ratio], cases[0.0], times[0.0]) for ratio, case in cases.items()]
    about = {"preset": options.preset, "dtype": options.dtype, "image": SHAPE, "rows": rows}
    write_json(options.out / "masked.json", about | {"provenance": provenance(about)})
    table = format_table(options, rows)
    write_atomically(options.out / "masked.md", f"{table}\n".encode())
    print(table)


def fresh_state(preset: str, dtype: str) -> TrainState:
    """The state that every timing starts from; parameters do not depend on what is visible."""
    return init_state(model_of(preset, dtype), optimizer_of(), jax.random.key(0), make_mesh(jax.devices()[:1]))


def model_of(preset: str, dtype: str) -> Any:
    return uvit(SHAPE, preset=preset, patch=2, level_scale=1.0, dtype=dtype)


def optimizer_of() -> Any:
    return make_optimizer(adamw(0.99, 0.99, weight_decay=0.03), constant_rate(1000, 2e-4), clip=1.0, ema=(0.999,))


def prepare(options: argparse.Namespace, ratio: float, batch: int, start: TrainState) -> Case:
    """Compile the step for one ratio and batch."""
    model, process = model_of(options.preset, options.dtype), ddpm_linear()
    visibility = None if ratio == 0 else patch(ratio)
    objective = make_objective(
        model,
        process,
        eps(),
        constant("eps"),
        discrete_uniform(1000),
        dense(),
        inputs=discrete(),
        passes=((1.0, visibility),),
    )
    image = jax.random.uniform(jax.random.key(1), (batch, *SHAPE), minval=-1.0)
    step = jit_step(make_step(objective, optimizer_of(), lambda raw, table: Batch(raw)), start)
    compiled = step.lower(start, image, jax.random.key(2)).compile()
    one = Batch(jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
    forward = lambda params, data, key: objective.loss(params, data, key)[0]  # noqa: E731
    flops = training_flops(forward, start.params, one, jax.random.key(0))
    return Case(ratio, batch, compiled, image, flops, compiled.memory_analysis().temp_size_in_bytes)


def seconds(case: Case, start: TrainState, steps: int) -> float:
    """Seconds of a step, over ``steps`` steps from a copy of ``start``, whose buffers the step gives up."""
    state, key = jax.tree.map(jnp.copy, start), jax.random.key(2)
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(steps):
        state, _ = case.step(state, case.data, key)
    jax.block_until_ready(state)
    return (time.perf_counter() - begin) / steps


def best_batch(options: argparse.Namespace, case: Case, start: TrainState) -> Case:
    """The batch, doubled from the first one, at which images/s stop growing by more than 3 %, or memory ends."""
    while True:
        try:
            larger = prepare(options, case.ratio, 2 * case.batch, start)
            for candidate in (case, larger):
                seconds(candidate, start, 2)
            gain = 2 * seconds(case, start, 4) / seconds(larger, start, 4)
        except jax.errors.JaxRuntimeError:  # out of memory
            return case
        if gain < 1.03:
            return case
        case = larger


def row(case: Case, times: list[float], whole: Case, whole_times: list[float]) -> dict[str, Any]:
    """The figures of one ratio; ratios to the unmasked step are per image."""
    per_image = [t / case.batch for t in times]
    faster = [w / whole.batch / t for w, t in zip(whole_times, per_image, strict=True)]
    return {
        "ratio": case.ratio,
        "batch": case.batch,
        "seconds": statistics.median(times),
        "images_per_second": 1 / statistics.median(per_image),
        "faster": statistics.median(faster),
        "faster_range": [min(faster), max(faster)],
        "flops_per_image": case.flops_per_image,
        "flops_ratio": whole.flops_per_image / case.flops_per_image,
        "temporary_bytes": case.temporary,
        "temporary_ratio": whole.temporary / case.temporary,
    }


def format_table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    device = jax.devices()[0].device_kind
    lines = [
        f"U-ViT {options.preset}, 256 tokens, {options.dtype}, {device}, jax {jax.__version__}",
        "",
        "| masked | batch | s/step | images/s | faster (range) | FLOPs saved | temporary | smaller |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["faster_range"]
        lines.append(
            f"| {r['ratio']:.0%} | {r['batch']} | {r['seconds']:.3f} | {r['images_per_second']:.1f} "
            f"| {r['faster']:.2f} ({low:.2f} to {high:.2f}) | {r['flops_ratio']:.2f} "
            f"| {r['temporary_bytes'] / 2**20:.0f} MiB | {r['temporary_ratio']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
