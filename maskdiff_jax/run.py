"""A training run: build, resume, train, evaluate, report. Everything that a run leaves behind is in its workdir."""

import inspect
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from maskdiff_jax import inference, rng
from maskdiff_jax.build import ConfigError, Experiment, build
from maskdiff_jax.data import PREPARERS, Feed, feed
from maskdiff_jax.evaluate.grid import image_grid
from maskdiff_jax.train import loop
from maskdiff_jax.train.checkpoint import Checkpoints, nbytes, require_space
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import read_json, write_atomically, write_json
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.progress import Progress
from maskdiff_jax.train.provenance import provenance
from maskdiff_jax.train.state import TrainState, abstract_state, init_state
from maskdiff_jax.train.step import jit_step, make_step
from maskdiff_jax.train.workdir import differences
from maskdiff_jax.train.writers import open_writers

# What may differ from the workdir's config when a run goes on: nothing here changes what is learned.
FREE = ("name", "log", "profile", "sample", "evaluate", "resident", "data.data_dir", "data.download", "data.path")


def train(config: ConfigDict, workdir: Path) -> int:
    """Run ``config`` to its end in ``workdir``, going on where an earlier run of it stopped; 0, or 130 after Ctrl-C.

    Raises ConfigError, DataError or CheckpointError with one line; nothing is written before the config, the data, the
    workdir and the free disk have been checked.
    """
    experiment = build(config)
    check_workdir(workdir, config)
    mesh = make_mesh()
    shapes = abstract_state(experiment.model, experiment.optimizer, mesh)
    require_space(workdir, (config.log.keep_latest + 1) * nbytes(shapes))

    sharding = batch_sharding(mesh)
    data = feed(
        experiment.dataset.train,
        config.batch,
        config.seed,
        experiment.augment,
        sharding=sharding,
        resident=config.resident,
    )
    stored, log = workdir / "config.json", config.log
    if not stored.exists():
        write_json(stored, config.to_dict())
    with (
        closing(Checkpoints(workdir / "checkpoints", log.keep_latest, log.keep_every, warn=_say)) as checkpoints,
        loop.interruptible() as stopped,
    ):
        restored = checkpoints.restore(shapes)
        if restored is None:
            state, before = init_state(experiment.model, experiment.optimizer, _key(config, "init"), mesh), 0.0
        else:
            state, before = restored.state, restored.meta["seconds"]
            _resume(experiment, data, restored.data, restored.meta)
            write_json(stored, config.to_dict())  # what is free to change may have
        start = int(state.step)
        _introduce(experiment, workdir, state, start)
        run = _Run(experiment, workdir, data, checkpoints, _Clock(before))
        state, done = run.to_the_end(state, stopped)
    if done < config.steps:
        command = shlex.join(["python", "-m", "maskdiff_jax.main", *sys.argv[1:]])
        print(f"\nstopped and saved at step {done} of {config.steps}; to continue:\n  {command}")
        return 130
    trained = inference.Trained(get_ema(state.opt_state, config.ema[0]), done, run.seconds)
    inference.write_report(experiment, trained, workdir)
    return 0


def prepare(config: ConfigDict) -> None:
    """Make the data set of ``config`` ready, and say where it is. Raises ConfigError or DataError."""
    name, options = config.data.name, config.data.to_dict()
    if name not in PREPARERS:
        raise ConfigError(f"config.data: {name!r} needs no preparing; of the data sets {', '.join(PREPARERS)} does")
    taken = inspect.signature(PREPARERS[name]).parameters
    print(PREPARERS[name](**{key: value for key, value in options.items() if key in taken}))


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Raise ConfigError where ``workdir`` holds another run, naming the keys that differ, or files of no known run."""
    stored = workdir / "config.json"
    if stored.exists():
        try:
            changed = differences(read_json(stored), config.to_dict(), FREE)
        except ValueError as error:
            raise ConfigError(f"{error}: choose another --workdir") from error
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another config: {'; '.join(changed)}. Choose another --workdir"
            )
    elif found := [name for name in ("checkpoints", "metrics.jsonl", "report.json") if (workdir / name).exists()]:
        raise ConfigError(f"{workdir} has {' and '.join(found)} but no config.json: choose another --workdir")


class _Run:
    """The steps of a run and the hooks between them."""

    def __init__(self, experiment: Experiment, workdir: Path, data: Feed, checkpoints: Checkpoints, clock: "_Clock"):
        self.experiment, self.workdir, self.data, self.checkpoints = experiment, workdir, data, checkpoints
        self.config, self.clock, self.meter = experiment.config, clock, loop.Meter()
        self.seconds = clock.seconds  # as the newest checkpoint has them
        self.flops = inference.flops_per_image(experiment)
        self.measure = inference.heldout_loss(experiment)
        self.generate = inference.generator(experiment, self.config.sample, self.config.sample.num)

    def to_the_end(self, state: TrainState, stopped: Callable[[], bool]) -> tuple[TrainState, int]:
        """Train until the last step or an interruption, and save; the state and the steps done."""
        config, start = self.config, int(state.step)
        self.writer = open_writers(self.workdir, resumed_from=start, board=config.log.board)
        step = jit_step(
            make_step(self.experiment.objective, self.experiment.optimizer, self.data.ingest, config.accumulate), state
        )
        root, table = _key(config, "train"), self.data.table
        if start == 0:
            self.heldout(0, state)
            overview = parameter_overview.get_parameter_overview(state.params)
            write_atomically(self.workdir / "parameters.txt", f"{overview}\n".encode())
        hooks = [
            loop.Hook(1, lambda done, _: self.progress.update(done)),
            loop.Hook(config.log.every, self.log),
            loop.Hook(config.log.heldout_every, self.heldout),
            loop.Hook(config.log.sample_every, self.samples),
            loop.Hook(config.log.checkpoint_every, self.save),
        ]
        profiler = loop.Profiler(config.profile, self.workdir / "profile")
        hooks.insert(0, loop.Hook(1, profiler))
        self.progress = Progress(config.steps, start, config.batch, log=_say)
        with self.clock.running():
            state, done = loop.run(
                state,
                lambda s, raw: step(s, raw, root, table),
                self.data.batches,
                config.steps,
                self.meter,
                hooks,
                stopped,
            )
            jax.block_until_ready(state)
        profiler.close()
        self.save(done, state)
        self.checkpoints.wait()
        self.progress.close()
        self.writer.close()
        self.data.batches.close()
        return state, done

    def log(self, done: int, state: TrainState) -> None:
        """Means since the last line, and the cumulative images, seconds and analytic FLOPs."""
        metrics = self.meter.read()
        images = done * self.config.batch
        totals = {"images": images, "seconds": self.clock.seconds, "flops": images * self.flops}
        self.writer.write_scalars(done, {f"train/{name}": value for name, value in metrics.items()} | totals)
        self.progress.update(done, metrics["loss"])

    def heldout(self, done: int, state: TrainState) -> None:
        """The dense held-out loss of the parameters and of their average."""
        with self.clock.paused(state):
            average = get_ema(state.opt_state, self.config.ema[0])
            for name, params in (("heldout", state.params), ("heldout_ema", average)):
                losses = self.measure(params)
                self.writer.write_scalars(done, {f"{name}/{key}": value for key, value in losses.items()})

    def samples(self, done: int, state: TrainState) -> None:
        """A grid of samples of the averaged parameters, from the same noise every time."""
        with self.clock.paused(state):
            labels = inference.labels_for(self.experiment, None, self.config.sample.num)
            params = get_ema(state.opt_state, self.config.ema[0])
            images = self.generate(params, self.config.sample.num, inference.condition(labels), self.config.seed)
            inference.save_grid(self.workdir / "samples" / f"step_{done:07d}.png", self.experiment, images, labels)
            self.writer.write_images(done, {"samples": image_grid(images)[None]})

    def save(self, done: int, state: TrainState) -> None:
        """A checkpoint of the state, the data position and the clock."""
        if self.checkpoints.latest_step() == done:
            return
        self.seconds = self.clock.seconds
        meta = {
            "seconds": self.seconds,
            "config": self.config.to_dict(),
            "fingerprint": self.experiment.dataset.fingerprint,
            "provenance": provenance(self.config.to_dict()),
        }
        self.writer.flush()
        self.checkpoints.save(done, state, self.data.batches.get_state(), meta)


class _Clock:
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


def _key(config: ConfigDict, name: str) -> jax.Array:
    return rng.key_for(jax.random.key(config.seed), name)


def _resume(experiment: Experiment, data: Feed, position: dict[str, Any], meta: dict[str, Any]) -> None:
    if meta["fingerprint"] != experiment.dataset.fingerprint:
        raise ConfigError(f"config.data: {experiment.dataset.name} is not the data that this workdir was trained on")
    try:
        data.batches.set_state(position)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error


def _introduce(experiment: Experiment, workdir: Path, state: TrainState, start: int) -> None:
    config, dataset = experiment.config, experiment.dataset
    h, w, c = dataset.shape
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    classes = f", {dataset.classes} classes" if dataset.classes else ""
    devices = jax.devices()
    _say(f"{config.name or 'run'} in {workdir}" + (f", going on from step {start}" if start else ""))
    _say(f"  data     {dataset.name}: {len(dataset.train):,} + {len(dataset.heldout):,} held out, {h}x{w}x{c}{classes}")
    _say(f"  model    {config.model.name}, {parameters / 1e6:.2f} M parameters, predicts {config.prediction.name}")
    _say(
        f"  loss     {_called(config.weighting)}, {_called(config.supervision)}, visible: {_called(config.visibility)}"
    )
    _say(f"  devices  {len(devices)} x {devices[0].device_kind}")


def _called(part: ConfigDict) -> str:
    options = ", ".join(f"{key}={value}" for key, value in part.items() if key != "name")
    return f"{part.name}({options})" if options else part.name


def _say(line: str) -> None:
    print(line, flush=True)
