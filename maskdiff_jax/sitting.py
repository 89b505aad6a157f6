"""One sitting of a run: the steps of its stages, and what happens between them."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax import inference, reporting, rng
from maskdiff_jax.checks import best_sign
from maskdiff_jax.data import Feed
from maskdiff_jax.stages import Stage
from maskdiff_jax.train import loop
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import write_atomically, write_json
from maskdiff_jax.train.parallel import ENGINES
from maskdiff_jax.train.progress import Progress, say
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import TrainState
from maskdiff_jax.train.step import jit_step, make_step, repeated
from maskdiff_jax.train.stop import Diverged, Watch
from maskdiff_jax.train.writers import Writer


class BadSteps(Exception):
    """Training has gone wrong, in one line."""


class Sitting:
    """What the stages of a run share while it is trained: its checkpoints, its writers and its clock."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        mesh: Mesh,
        checkpoints: Checkpoints,
        writer: Writer,
        seconds: float,
    ):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.checkpoints, self.writer = checkpoints, writer
        self.clock, self.meter = Clock(seconds), loop.Meter()
        self.profiler = loop.Profiler(config.profile, workdir / "profile")
        self.seconds = seconds  # as the newest checkpoint has them
        self.measured: tuple[int, dict[str, Any]] = (0, {})  # the last step with scalars, and these

    def train(self, stage: Stage, state: TrainState, data: Feed, stopped: Callable[[], bool]) -> tuple[TrainState, int]:
        """Train until the stage's last step or an interruption, and save; the state and the run's steps done.

        Raises BadSteps where too many in a row were skipped; nothing is saved then.
        """
        return StageRun(self, stage, data).to_the_end(state, stopped)


class StageRun:
    """The steps of a stage and the hooks between them."""

    def __init__(self, sitting: Sitting, stage: Stage, data: Feed):
        self.sitting, self.stage, self.data = sitting, stage, data
        self.experiment, self.config = stage.experiment, stage.experiment.config
        self.root = key_of(self.config, "train")
        self.measure = inference.heldout_loss(self.experiment)

    @cached_property
    def generate(self) -> Callable[..., np.ndarray]:
        return inference.generator(self.experiment, self.config.sample, self.config.sample.num)

    @cached_property
    def quality(self) -> Callable[..., dict[str, Any]]:
        return reporting.image_metrics(self.experiment)

    def to_the_end(self, state: TrainState, stopped: Callable[[], bool]) -> tuple[TrainState, int]:
        """Train until the stage's last step, or until ``stopped``, and save; the state and the run's steps done."""
        start, step = int(state.step), self.step(state)
        if start == self.stage.start and self.config.log.sample_every:
            number = f"_{self.stage.number}" if self.stage.number else ""
            reporting.save_masks(self.sitting.workdir / "samples" / f"masks{number}.png", self.experiment)
        if start == 0:
            self.heldout(0, state)
            overview = parameter_overview.get_parameter_overview(state.params)
            write_atomically(self.sitting.workdir / "parameters.txt", f"{overview}\n".encode())
        with self.running(start):
            state, done = self.advance(step, state, self.stage.stop, stopped)
            self.save(done, state)
        return state, done

    def step(self, state: TrainState) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        """The compiled step, ``step(state, raw)``, for states placed like ``state``; or several, one for each raw."""
        engine = ENGINES[self.config.parallel.engine](self.sitting.mesh)
        parts = (self.experiment.objective, self.experiment.optimizer, self.data.ingest)
        step = make_step(*parts, self.config.accumulate, engine)
        one, several = jit_step(step, state), jit_step(repeated(step), state)

        def compiled(state: TrainState, *raws: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            if len(raws) == 1:
                return one(state, raws[0], self.root, self.data.table)
            return several(state, raws, self.root, self.data.table)

        return compiled

    @contextmanager
    def running(self, start: int) -> Iterator[None]:
        """While steps are taken, from step ``start`` on: the data, the progress bar and the clock."""
        self.progress = Progress(self.stage.stop, start, self.config.batch, log=say)
        with closing(self.data.batches), closing(self.progress), self.sitting.clock.running():
            yield

    def advance(
        self,
        step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
        state: TrainState,
        stop: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[TrainState, int]:
        """Steps until ``stop`` in all, with the hooks between them. Raises BadSteps."""
        log = self.config.log
        hooks = [
            self.sitting.profiler.hook,
            loop.Hook(log.every, self.log),
            loop.Hook(log.heldout_every, self.heldout),
            loop.Hook(log.quality_every, self.measure_quality),
            loop.Hook(log.sample_every, self.samples),
            loop.Hook(log.checkpoint_every, self.save),
        ]
        watch, taken = Watch(self.config.guard.max_bad_steps), int(state.step)

        def watched(state: TrainState, *raws: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            nonlocal taken
            state, measured = step(state, *raws)
            taken += len(raws)
            watch.add(taken, measured["skipped_in_row"])
            self.progress.update(taken)
            return state, measured

        # Inside a call of several steps debug_nans could not name the operation.
        per_call, meter = 1 if self.config.debug_nans else self.config.steps_per_call, self.sitting.meter
        try:
            state, done = loop.run(state, watched, self.data.batches, stop, meter, hooks, stopped, per_call)
            jax.block_until_ready(state)
            watch.close()
        except Diverged as error:
            raise self.bad_steps(error, taken) from error
        return state, done

    def bad_steps(self, error: Diverged, taken: int) -> "BadSteps":
        """What reproduces the first bad step, written to the workdir; the line that ends the run."""
        sitting, position = self.sitting, self.data.batches.get_state()["step"] - (taken - error.first)
        sitting.writer.flush()
        path = sitting.workdir / "bad_step.json"
        found = {
            "step": error.first,
            "bad_in_row": error.count,
            "key": np.asarray(jax.random.key_data(jax.random.fold_in(self.root, error.first))),
            "stream_position": position,
            "images": self.data.batches.indices(position),
            "config": sitting.config.to_dict(),
            "provenance": provenance(sitting.config.to_dict()),
        }
        write_json(path, found)
        sitting.checkpoints.wait()
        newest = sitting.checkpoints.latest_step()
        there = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is step {newest}"
        return BadSteps(
            f"{error.count} steps in a row had a gradient that is not finite or too large, and were skipped, from step "
            f"{error.first} on; {there}. {path} has the key and the images of that step; "
            "--config.debug_nans=True names the operation, --config.guard.max_bad_steps allows more"
        )

    def log(self, done: int, state: TrainState) -> None:
        """Means since the last line, and the cumulative images, seconds and analytic FLOPs."""
        metrics = self.sitting.meter.read()
        totals = {
            "images": self.stage.images_at(done),
            "seconds": self.sitting.clock.seconds,
            "flops": self.stage.flops_at(done),
        }
        self.write(done, {f"train/{name}": value for name, value in metrics.items()} | totals)
        self.progress.update(done, metrics["loss"])

    def heldout(self, done: int, state: TrainState) -> None:
        """The dense held-out loss of the parameters and of their average."""
        with self.sitting.clock.paused(state):
            for name, params in (("heldout", state.params), ("heldout_ema", self.average(state))):
                losses = self.measure(params)
                self.write(done, {f"{name}/{key}": value for key, value in losses.items()})

    def measure_quality(self, done: int, state: TrainState) -> None:
        """The report's image metrics, of samples of the averaged parameters from the same noise every time."""
        with self.sitting.clock.paused(state):
            measured = self.quality(self.average(state), self.config.seed)
            values = {**measured, **measured["metrics"]}
            self.write(done, {f"quality/{name}": v for name, v in values.items() if isinstance(v, int | float)})

    def samples(self, done: int, state: TrainState) -> None:
        """A grid of samples of the averaged parameters, from the same noise every time; none of mere latents."""
        if self.experiment.pictures is None:
            return
        with self.sitting.clock.paused(state):
            labels = inference.labels_for(self.experiment, None, self.config.sample.num)
            cond = inference.condition(self.experiment, labels, self.config.sample.num)
            images = self.generate(self.average(state), self.config.sample.num, cond, self.config.seed)
            path = self.sitting.workdir / "samples" / f"step_{done:07d}.png"
            inference.save_grid(path, self.experiment, images, labels)
            picture = inference.picture(self.experiment, images)
            self.sitting.writer.write_images(done, {"samples": picture[None]})

    def save(self, done: int, state: TrainState) -> None:
        """A checkpoint of the state, the data position and the costs so far."""
        sitting = self.sitting
        if sitting.checkpoints.latest_step() == done:
            return
        sitting.seconds = sitting.clock.seconds
        meta = {
            "seconds": sitting.seconds,
            "images": self.stage.images_at(done),
            "flops": self.stage.flops_at(done),
            "config": sitting.config.to_dict(),
            "fingerprint": self.experiment.dataset.fingerprint,
            "provenance": provenance(sitting.config.to_dict()),
        }
        sitting.writer.flush()
        measured_at, scalars = sitting.measured
        best = sitting.config.log.best_metric
        metric = best_sign(best) * scalars[best] if measured_at == done and best in scalars else None
        sitting.checkpoints.save(done, state, self.data.batches.get_state(), meta, metric=metric)

    def write(self, done: int, scalars: dict[str, Any]) -> None:
        before, measured = self.sitting.measured
        self.sitting.measured = (done, {**measured, **scalars} if before == done else scalars)
        self.sitting.writer.write_scalars(done, scalars)

    def average(self, state: TrainState) -> Any:
        return get_ema(state.opt_state, self.config.ema[0])


class Clock:
    """Seconds of training, over all sittings of a run; evaluation and sampling in between do not count."""

    def __init__(self, before: float):
        self._total, self._since = before, None

    @property
    def seconds(self) -> float:
        return self._total + (0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._total, self._since = self.seconds, None

    @contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Stop while the body runs, once the steps under way are done."""
        if self._since is None:
            yield
            return
        jax.block_until_ready(state)
        self._total, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


def key_of(config: ConfigDict, name: str) -> jax.Array:
    """The root key of a run for one purpose."""
    return rng.key_for(jax.random.key(config.seed), name)
