"""Where a stage's parameters come from: fresh ones, the stage before, or another run (``config.init_from``)."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment
from maskdiff_jax.models.transfer import Transfer, transfer
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.stages import Stage, check_handover
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.parallel import place_params, with_state_sharding
from maskdiff_jax.train.progress import say
from maskdiff_jax.train.state import TrainState, state_from
from maskdiff_jax.types import Key, Params


class Inherited(NamedTuple):
    """Parameters of another run at one of its steps, and what it had cost to train them, what it inherited included."""

    source: Path
    step: int
    params: Params
    cost: dict[str, Any]  # steps, images, flops, seconds


def inherit(config: ConfigDict, first: Stage) -> Inherited | None:
    """The parameters that ``config.init_from`` names, checked against the first stage; None where it names none.

    Raises ConfigError where there is no such run or its parameters do not fit, CheckpointError where none is sound.
    """
    if not config.init_from:
        return None
    workdir = Path(config.init_from)
    if not (workdir / "checkpoints").is_dir():
        raise ConfigError(f"config.init_from: {workdir} holds no run: there is no {workdir / 'checkpoints'}")
    with Checkpoints(workdir / "checkpoints", read_only=True, warn=say) as checkpoints:
        restored = checkpoints.read_params("first" if config.handover.weights == "ema" else None)
    shapes = jax.eval_shape(first.experiment.model.init, jax.random.key(0))
    try:
        check_handover(restored.params, shapes, config.handover)
    except ConfigError as error:
        raise ConfigError(f"config.init_from={str(workdir)!r}: {error}") from error
    cost = {"steps": restored.step, **{name: restored.meta.get(name) for name in ("images", "flops", "seconds")}}
    if (workdir / "transfer.json").is_file():  # which had inherited, too
        before = read_json(workdir / "transfer.json")
        cost = {name: None if value is None else value + before[name] for name, value in cost.items()}
    return Inherited(workdir, restored.step, restored.params, cost)


def hand_over(params: Params, experiment: Experiment, step: int, key: Key, mesh: Mesh) -> tuple[TrainState, Transfer]:
    """The state in which a stage begins, from parameters that may be of another size: fresh optimiser and averages."""
    settings = experiment.config.handover
    shapes = with_state_sharding(mesh, jax.eval_shape(experiment.model.init, key))
    fresh = jax.jit(experiment.model.init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(key)
    params, report = transfer(place_params(mesh, params), fresh, renew=settings.renew, positions=settings.positions)
    return state_from(params, experiment.optimizer, step, mesh), report


def final_params(state: TrainState, config: ConfigDict, weights: str) -> Params:
    """What a stage gives to the next: its raw parameters, or (``weights`` 'ema') their first average."""
    if weights == "raw":
        return state.params
    average = get_ema(state.opt_state, config.ema[0])
    return jax.tree.map(lambda a, p: a.astype(p.dtype), average, state.params)
