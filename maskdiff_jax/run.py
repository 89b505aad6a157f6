"""A training run: build, resume, train, evaluate, report. Everything that a run leaves behind is in its workdir."""

import inspect
import shlex
import sys
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax import inference, reporting
from maskdiff_jax.build import mesh_for
from maskdiff_jax.data import PREPARERS, Feed, feed
from maskdiff_jax.handover import final_params, hand_over, inherit, unlike
from maskdiff_jax.models.transfer import format_transfer
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.sitting import Sitting, key_of
from maskdiff_jax.sources import Inherited
from maskdiff_jax.stages import Stage, build_stages, same_run, stage_at
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.parallel import batch_sharding
from maskdiff_jax.train.progress import say
from maskdiff_jax.train.reading import Restored
from maskdiff_jax.train.space import nbytes, require_space
from maskdiff_jax.train.state import TrainState, abstract_state, init_state
from maskdiff_jax.train.stop import interruptible
from maskdiff_jax.train.workdir import FREE, differences
from maskdiff_jax.train.writers import open_writers


def train(config: ConfigDict, workdir: Path) -> int:
    """Run ``config`` to its end in ``workdir``, going on where an earlier run of it stopped; the exit status.

    It is 0, also where SIGTERM stopped the run before its end, and 130 after Ctrl-C; both save first.
    Raises ConfigError, DataError, CheckpointError or BadSteps with one line; nothing is written before the config, the
    data, the workdir, the free disk and what the run inherits have been checked.
    """
    stages = build_stages(config)
    check_workdir(workdir, config)
    mesh = mesh_for(config)
    shapes = [abstract_state(s.experiment.model, s.experiment.optimizer, mesh) for s in stages]
    kept = config.log.keep_latest + config.log.keep_best + len(stages)
    require_space(workdir, kept * max(map(nbytes, shapes)))
    started = any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))
    inherited = None if started else inherit(config, stages[0])
    first = _feed(stages[0], mesh)  # which finds missing data
    if not (workdir / "config.json").exists():
        write_json(workdir / "config.json", config.to_dict())
    _check_shared(workdir)
    log, edges = config.log, [stage.stop for stage in stages[:-1]]
    with (
        Checkpoints(
            workdir / "checkpoints",
            log.keep_latest,
            log.keep_every,
            keep_steps=edges,
            keep_best=log.keep_best,
            warn=say,
        ) as checkpoints,
        interruptible() as stopped,
        # As contexts: what `jax.config.update` sets is lost in a thread that has ever left such a context.
        jax.debug_nans(config.debug_nans),
        jax.debug_infs(config.debug_nans),
    ):
        restored = checkpoints.restore(
            lambda step: shapes[stage_at(stages, step).number], same_run(config, checkpoints.directory, stages)
        )
        step, seconds = (0, 0.0) if restored is None else (restored.step, restored.meta["seconds"])
        stage = stage_at(stages, step)
        data = first if stage.number == 0 else _feed(stage, mesh)
        if restored is not None:
            _resume(stage, data, restored)  # may refuse, before the writers drop the lines of later steps
            write_json(workdir / "config.json", config.to_dict())  # what is free to change may have
        resumed_from = -1 if restored is None else step  # anew, step 0 is measured anew
        with closing(open_writers(workdir, resumed_from=resumed_from, board=log.board)) as writer:
            sitting = Sitting(config, workdir, mesh, checkpoints, writer, seconds)
            state = first_state(stage, inherited, workdir, mesh) if restored is None else restored.state
            _introduce(config, stages, stage, workdir, state)
            state, done = sitting.train(stage, state, data, stopped)
            for following in stages[stage.number + 1 :]:
                if done < stages[following.number - 1].stop:
                    break
                state = _next_state(following, stages[following.number - 1], state, mesh)
                state, done = sitting.train(following, state, _feed(following, mesh), stopped)
            sitting.profiler.close()
            checkpoints.wait()
    if done < stages[-1].stop:
        command = shlex.join(["python", "-m", "maskdiff_jax.main", *sys.argv[1:]])
        say(f"\nstopped and saved at step {done} of {stages[-1].stop}; to continue:\n  {command}")
        return stopped.status
    average = get_ema(state.opt_state, stages[-1].experiment.config.ema[0])
    reporting.write_report(stages[-1], config, inference.Trained(average, done, sitting.seconds), workdir)
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
            changed = differences(inference.read_config(workdir).to_dict(), config.to_dict(), FREE)
        except ConfigError as error:
            raise ConfigError(f"{error}: choose another --workdir") from error
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another config: {'; '.join(changed)}. Choose another --workdir"
            )
    elif found := [name for name in ("checkpoints", "metrics.jsonl", "report.json") if (workdir / name).exists()]:
        raise ConfigError(f"{workdir} has {' and '.join(found)} but no config.json: choose another --workdir")


def _check_shared(workdir: Path) -> None:
    """Raise ConfigError where another process of the run does not see the workdir that the first one has made."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maskdiff_jax: workdir")
        seen = multihost_utils.process_allgather(np.array((workdir / "config.json").exists()))
        if not seen.all():
            blind = ", ".join(map(str, np.flatnonzero(~seen)))
            raise ConfigError(f"--workdir={workdir}: not seen by process {blind}; all processes must share it")


def _feed(stage: Stage, mesh: Mesh) -> Feed:
    """The stage's data, from where the stages before have left the stream: no position of it is used twice."""
    config, dataset = stage.experiment.config, stage.experiment.dataset
    return feed(
        dataset.train,
        config.batch,
        config.seed,
        stage.experiment.augment,
        sharding=batch_sharding(mesh),
        resident=config.resident,
        start=-(-stage.images // config.batch),
        controls_high=tuple(config.condition.controls_high),
        controls_low=tuple(config.condition.controls_low),
    )


def first_state(stage: Stage, inherited: Inherited | None, workdir: Path, mesh: Mesh) -> TrainState:
    """The state at step 0. What it has inherited is said, and written to ``transfer.json``."""
    experiment = stage.experiment
    key = key_of(experiment.config, "init")
    if inherited is None:
        return init_state(experiment.model, experiment.optimizer, key, mesh)
    state, report = hand_over(inherited.params, experiment, 0, key, mesh)
    write_json(
        workdir / "transfer.json", {"source": str(inherited.source), **inherited.cost, "leaves": report._asdict()}
    )
    step = "" if inherited.step is None else f", step {inherited.step}"
    say(f"from {inherited.source}{step}:\n{format_transfer(report)}")
    if lines := unlike(inherited, experiment.config):
        say(f"  otherwise than there: {'; '.join(lines)}")
    return state


def _next_state(stage: Stage, before: Stage, state: TrainState, mesh: Mesh) -> TrainState:
    """The state in which ``stage`` begins where ``before`` ended."""
    config = stage.experiment.config
    params = final_params(state, before.experiment.config, config.handover.weights)
    state, report = hand_over(params, stage.experiment, stage.start, key_of(config, f"init {stage.number}"), mesh)
    say(f"stage {stage.number} ({stage.name}), steps {stage.start} to {stage.stop}: {_loss(config)}")
    if report.resized or report.dropped or report.new:
        say(format_transfer(report))
    return state


def _resume(stage: Stage, data: Feed, restored: Restored) -> None:
    try:
        data.batches.set_state(restored.data)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error


def _introduce(config: ConfigDict, stages: tuple[Stage, ...], stage: Stage, workdir: Path, state: TrainState) -> None:
    experiment, start = stage.experiment, int(state.step)
    dataset, own = experiment.dataset, experiment.config
    h, w, c = experiment.picture_shape
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    classes = f", {dataset.classes} classes" if dataset.classes else ""
    devices = jax.devices()
    say(f"{config.name or 'run'} in {workdir}" + (f", going on from step {start}" if start else ""))
    if len(stages) > 1:
        say("  stages   " + ", ".join(f"{s.name} (to step {s.stop})" for s in stages))
    say(f"  data     {dataset.name}: {len(dataset.train):,} + {len(dataset.heldout):,} held out, {h}x{w}x{c}{classes}")
    if dataset.latents is not None:
        rows, columns, channels = experiment.codec.shape(experiment.image_shape)
        decoder = dataset.latents.vae or "nothing decodes them, so nothing is drawn"
        say(f"  latents  {rows}x{columns}x{channels}; {decoder}")
    say(f"  model    {own.model.name}, {parameters / 1e6:.2f} M parameters, predicts {own.prediction.name}")
    say(f"  loss     {_loss(own)}")
    say(f"  devices  {len(devices)} x {devices[0].device_kind}")


def _loss(config: ConfigDict) -> str:
    return f"{_called(config.weighting)}, {_called(config.supervision)}, visible: {_called(config.visibility)}"


def _called(part: ConfigDict) -> str:
    options = ", ".join(f"{key}={value}" for key, value in part.items() if key != "name")
    return f"{part.name}({options})" if options else part.name
