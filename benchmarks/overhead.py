"""What the trainer costs around its compiled step, logging and saving included, timed in turn in one run.

    python -m benchmarks.overhead --out=DIR [--rounds=10 --steps=100 --least=0.2]

Three ways of taking ``steps`` steps of a DiT on digits, in each round one after the other: the compiled step alone, on
one batch that stays on the device; the trainer's own loop with data, progress, guard and logging as in any run; and the
same with an asynchronous checkpoint in their middle. The batch is doubled until a step takes ``least`` seconds. Medians
over the rounds of the ratios of one round, with the 2nd and 98th percentile; the bars are 3 % and 5 %. DIR gets
overhead.json and overhead.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import digits_dense
from maskdiff_jax.data import feed
from maskdiff_jax.sitting import Sitting, StageRun
from maskdiff_jax.stages import Stage, build_stages
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import TrainState, init_state
from maskdiff_jax.train.writers import open_writers

MODEL = {"name": "dit", "patch": 2, "width": 160, "depth": 5, "heads": 5}
BARS = {"logging": 1.03, "logging and a checkpoint": 1.05}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="of each timing")
    parser.add_argument("--least", type=float, default=0.2, help="seconds of a step")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)

    batch = choose_batch(options.least)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(batch, options.rounds, options.steps, Path(folder))
    found = summarise(seconds)
    about = {"batch": batch, "rounds": options.rounds, "steps": options.steps, "seconds": seconds, "ratios": found}
    write_json(options.out / "overhead.json", about | {"provenance": provenance(about)})
    table = format_table(found, float(np.median(seconds["step"])) / options.steps)
    write_atomically(options.out / "overhead.md", f"{table}\n".encode())
    print(table)


def stage_of(batch: int, every: int) -> Stage:
    """A DiT of 2.4 M parameters on digits, that saves after multiples of ``every`` steps."""
    config = digits_dense.get_config()
    config.update({"batch": batch, "steps": 10**6, "schedule": {"warmup": 10}})
    config.model = dict(MODEL)
    config.log.update({"heldout_every": 0, "sample_every": 0, "quality_every": 0, "checkpoint_every": every})
    return build_stages(config)[0]


def choose_batch(least: float) -> int:
    """The smallest power of two, from 16 on, with which a step takes ``least`` seconds."""
    batch = 16
    while True:
        with tempfile.TemporaryDirectory() as folder, running(stage_of(batch, 0), Path(folder)) as (run, state):
            bare = partial(repeat, run.step(state), next(run.data.batches), count=4)
            _, seconds = timed(bare, jax.block_until_ready(bare(state)))
        if seconds / 4 >= least:
            return batch
        batch *= 2


class running:
    """``with running(stage, folder) as (run, state)``: the trainer, about to take its first step."""

    def __init__(self, stage: Stage, folder: Path):
        self.stage, self.folder = stage, folder

    def __enter__(self) -> tuple[StageRun, TrainState]:
        experiment, mesh = self.stage.experiment, make_mesh()
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.writer = open_writers(self.folder)
        sitting = Sitting(experiment.config, self.folder, mesh, self.checkpoints, self.writer, 0.0)
        source, batch = experiment.dataset.train, experiment.config.batch
        data = feed(source, batch, 0, experiment.augment, sharding=batch_sharding(mesh), resident=True)
        run = StageRun(sitting, self.stage, data)
        self.context = run.running(0)
        self.context.__enter__()
        return run, init_state(experiment.model, experiment.optimizer, jax.random.key(0), mesh)

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        with closing(self.checkpoints), closing(self.writer):
            pass


def measure(batch: int, rounds: int, steps: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each way in each round. Checkpoints fall into the middle, so that they are written within a timing."""
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in BARS}}
    with running(stage_of(batch, 0), folder) as (run, state):
        step, raw = run.step(state), next(run.data.batches)
        state, _ = run.advance(step, state, 2)
        jax.block_until_ready(state)
        ways: dict[str, Callable[[TrainState], TrainState]] = {
            "step": partial(repeat, step, raw, count=steps),
            "logging": lambda state: advance(run, step, state, steps, 0),
            "logging and a checkpoint": lambda state: advance(run, step, state, steps, steps // 2),
        }
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                state, taken = timed(ways[name], state)
                seconds[name].append(taken)
            run.sitting.checkpoints.wait()
    return seconds


def repeat(step: Callable[..., Any], raw: Any, state: TrainState, count: int) -> TrainState:
    """``count`` compiled steps on one batch."""
    for _ in range(count):
        state, _ = step(state, raw)
    return state


def advance(run: StageRun, step: Callable[..., Any], state: TrainState, count: int, save_at: int) -> TrainState:
    """``count`` steps of the trainer, with a checkpoint after ``save_at`` of them, or 0 for none."""
    done = int(state.step)
    if save_at:
        state, _ = run.advance(step, state, done + save_at)
        run.save(done + save_at, state)
    return run.advance(step, state, done + count)[0]


def timed(way: Callable[[TrainState], TrainState], state: TrainState) -> tuple[TrainState, float]:
    began = time.perf_counter()
    state = jax.block_until_ready(way(state))
    return state, time.perf_counter() - began


def summarise(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Of each way but the bare step: the median ratio to it, its spread, and whether it is within its bar."""
    bare, found = np.array(seconds["step"]), {}
    for name, bar in BARS.items():
        ratios = np.array(seconds[name]) / bare
        low, median, high = np.percentile(ratios, (2.5, 50, 97.5))
        found[name] = {"ratio": median, "low": low, "high": high, "bar": bar, "holds": bool(median <= bar)}
    return found


def format_table(found: dict[str, dict[str, Any]], step: float) -> str:
    lines = [
        f"Around a step of {1000 * step:.0f} ms",
        "",
        "| trainer with | ratio | spread | bar | holds |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        spread = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"| {name} | {row['ratio']:.3f} | {spread} | {row['bar']} | {'yes' if row['holds'] else 'no'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
